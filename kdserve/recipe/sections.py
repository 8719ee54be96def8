"""The sections of a recipe: each says its keys, their defaults and meaning, and refuses what does not fit together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kdserve.recipe.loop import LoopRecipe
from kdserve.toml import require, require_rules

LEAST_VOCABULARY = 300
"""Tokens of the smallest vocabulary: 256 bytes, special ones, and some letters."""
MOST_LAYERS, MOST_WIDTH = 256, 16_384
"""Of any body here; its feed-forward part may be four times as wide."""
BODY_RANGES = {
    "width": f"[1, {MOST_WIDTH}]",
    "heads": f"[1, {MOST_WIDTH}]",
    "feed_forward": f"[1, {4 * MOST_WIDTH}]",
}
_TRAIN_RANGES = {
    "table_rate": "[0, inf)",
    "body_rate": "[0, inf)",
    "temperature": "(0, 1]",
    "source_share": "[0, 1]",
    "token_dropout": "[0, 1)",
    "joined": "[0, 1]",
    "split_tokens": "[0, 1]",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherRecipe:
    """The teacher: "all-MiniLM-L6-v2", "multilingual-e5-small" (packages), a folder, a hub name with a revision.

    A folder is relative to `data_dir` or to the working folder.
    """

    model: str = "all-MiniLM-L6-v2"
    revision: str = ""
    batch_size: int = 256

    def __post_init__(self) -> None:
        require(self, batch_size="[1, inf)")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRecipe:
    """One source of pairs.

    `path` is relative to `data_dir`; `{language}` in it stands for a language code, so that one entry names a file a
    pair. "sample" is the corpus that ships with kdserve, "hub:NAME" or "hub:NAME#CONFIG" a data set of the hub.
    Columns are header names, or numbers from 0 in TSV files without a header. Without `translation` the file holds
    source sentences only. `exclude` drops domains ("multi30k"), or domains of one language ("bible:tr"). `most` > 0
    keeps so many pairs of each language: of the same source sentences in all, where they have them.
    """

    path: str
    source: str = "0"
    translation: str = "1"
    language: str = ""
    language_column: str = ""
    domain_column: str = ""
    domain: str = ""
    split: str = "train"
    exclude: tuple[str, ...] = ()
    most: int = 0
    weights: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0
    hold_out: bool = True

    def __post_init__(self) -> None:
        require(self, weight="[0, inf)", weights="[0, inf)", most="[0, inf)")


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyRecipe:
    """A Unigram vocabulary with byte fallback, trained on sentences drawn by language at `temperature`.

    `teacher_words` gives every word of the teacher's own vocabulary a token, in the place of the rarest pieces, so that
    the student reads words of the teacher's language that the parallel text does not have. A `folder` with a
    tokenizer.json takes its place.

    `of_teacher` takes a multilingual teacher's own vocabulary instead, cut to the `size` tokens that the drawn
    sentences have most, and the student keeps their rows of its table.
    """

    size: int = 32_000
    sentences: int = 1_000_000
    temperature: float = 0.5
    source_share: float = 0.08
    teacher_words: bool = False
    of_teacher: bool = False
    folder: str = ""

    def __post_init__(self) -> None:
        shares = {"temperature": "(0, 1]", "source_share": "[0, 1)"}
        require(self, size=f"[{LEAST_VOCABULARY}, inf)", sentences="[1, inf)", **shares)
        other = bool(self.folder or self.teacher_words)
        require_rules(
            ("of_teacher", not (self.of_teacher and other), "is a vocabulary already; remove folder and teacher_words")
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyRecipe:
    """A body of one's own size, drawn at random, in place of the teacher's layers.

    `width` is that of the token table and of every layer. Where the teacher's vectors have another, a dense layer leads
    to them.
    """

    width: int
    layers: int = 4
    heads: int = 4
    feed_forward: int = 1024

    def __post_init__(self) -> None:
        require(self, **BODY_RANGES, layers=f"[1, {MOST_LAYERS}]")
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; it must divide the width {self.width}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentRecipe:
    """The student's body: `layers` of the teacher's, from 0, or a `body` of its own (transformer only).

    `start` is a student's folder to go on from, as it is or grown: its body, token table and vocabulary.
    `table_bits` trains the token table on the integer grid that it will be stored in; `table_rank` > 0 factorises it.
    With `train.table_rate` 0 it stays as it starts.
    """

    start: str = ""
    layers: tuple[int, ...] = (0, 3, 5)
    body: BodyRecipe | None = None
    max_tokens: int = 128
    table_bits: Literal[0, 4, 8] = 0
    table_rank: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(self, layers="[0, inf)", max_tokens="[4, inf)", table_rank="[0, inf)", dropout="[0, 1)")
        width = self.body.width if self.body else 0
        require_rules(
            ("layers", bool(self.layers), "is empty; it must name at least one layer"),
            ("start", not (self.start and self.body), "has a body already; remove student.body"),
            ("body.width", self.table_bits != 4 or width % 32 == 0, "must be a multiple of 32 for 4 bits"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignRecipe:
    """How the student starts. The ridge solve of its token table draws `max_rows` sentences where there are more.

    `anchor` holds what is a token of the teacher's too to its row there, so many times as strongly as the source
    sentences that have it pull (0 = off). Before the solve, the layers taken of the teacher learn to fit each other for
    `body_steps`, in the teacher's own tokens (0 = off). Beside a live teacher `fold_texts` does that in closed form: on
    so many texts, each layer of `layers.map` is solved for what the teacher gives there (kdserve.distill.start.fold).
    """

    damping: float = 5e-3
    anchor: float = 0.0
    iterations: int = 30
    max_rows: int = 4_000_000
    body_steps: int = 0
    body_rate: float = 5e-4
    fold_texts: int = 0

    def __post_init__(self) -> None:
        require(self, damping="(0, inf)", anchor="[0, inf)", iterations="[1, inf)", max_rows="[1, inf)")
        require(self, body_steps="[0, inf)", body_rate="[0, inf)", fold_texts="[0, inf)")


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsRecipe:
    """Target vector of a text: a weighted mean of the teacher's vectors.

    `source` weighs that of its source sentence, `own` that of the text itself, which a multilingual teacher reads,
    `partner` that of another wording of the source sentence, which is then drawn into the batch beside each text. The
    last two need `vocabulary.of_teacher`: the teacher runs on the student's tokens while it is trained. Then texts
    stand under the teacher's prompts, a share of `queries` under that of queries, and the student keeps the prompts.
    `centred` first takes the mean of each text's language off the teacher's vectors (kdserve.distill.start.centres):
    the student then finds the right answer in another language before the wrong one in the question's own.
    """

    source: float = 1.0
    own: float = 0.0
    partner: float = 0.0
    queries: float = 0.0
    centred: bool = False

    def __post_init__(self) -> None:
        require(self, source="[0, inf)", own="[0, inf)", partner="[0, inf)", queries="[0, 1]")
        require_rules(
            ("source", self.live or self.source > 0, "must be above 0 where own and partner are 0"),
            ("source", not (self.live and self.source), "must be 0 beside targets.own and targets.partner"),
            ("queries", self.live or not self.queries, "needs targets.own or targets.partner"),
            ("centred", self.live or not self.centred, "needs targets.own or targets.partner"),
        )

    @property
    def live(self) -> bool:
        """Whether the teacher runs beside the student."""
        return self.own + self.partner > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveRecipe:
    """Weights of the objectives (0 = off); see kdserve.distill.objectives.vectors for what each of them is.

    `negatives` is how many of the teacher's vectors, drawn anew each step, `contrastive` takes as wrong answers beside
    the batch's own. `scale` multiplies the cosines of `contrastive`, `translation` and `ranking`. `symmetric` gives
    half of `contrastive` to the other way: each teacher's vector among the batch's texts.
    """

    cosine: float = 5.0
    mse: float = 0.0
    contrastive: float = 0.5
    scale: float = 20.0
    margin: float = 0.0
    negatives: int = 0
    symmetric: bool = False
    translation: float = 0.0
    relational: float = 0.0
    ranking: float = 0.0
    spread: float = 0.0
    matryoshka: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        weights = dict.fromkeys(
            ("cosine", "mse", "contrastive", "translation", "relational", "ranking", "spread"), "[0, inf)"
        )
        require(self, **weights, scale="(0, inf)", margin="[0, 2)", negatives="[0, inf)", matryoshka="[1, inf)")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRecipe:
    """Distilling inside the body: `map` pairs [student layer, teacher layer]; the others are weights (0 = off).

    `states` compares tokens, in every text of the batch, where the student has the teacher's own (`targets.own`); the
    other three compare words, in source sentences.
    """

    map: tuple[tuple[int, ...], ...] = ()
    states: float = 0.0
    hidden: float = 0.0
    attention: float = 0.0
    relations: float = 0.0
    relation_heads: int = 12
    batch_size: int = 64

    def __post_init__(self) -> None:
        weights = dict.fromkeys(("states", "hidden", "attention", "relations"), "[0, inf)")
        require(self, **weights, relation_heads="[1, inf)", batch_size="[1, inf)")
        if any(len(pair) != 2 or min(pair) < 0 for pair in self.map):
            raise ValueError(f"map is {self.map}; it must hold pairs [student layer, teacher layer], from 0")
        require_rules(("map", bool(self.map) or not any(getattr(self, name) for name in weights), "is missing"))


@dataclass(frozen=True, kw_only=True, slots=True)
class GuideRecipe:
    """A smaller student that helps to teach: its folder, and the weight of 1 - cosine to its vector of the same text.

    The weight falls to zero, linearly, over the first `until` of the steps.
    """

    student: str = ""
    weight: float = 1.0
    until: float = 0.5

    def __post_init__(self) -> None:
        require(self, weight="[0, inf)", until="(0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRecipe(LoopRecipe):
    """The training loop of embedders and classifiers.

    Batches hold `batch_size` texts; `batch_by` "tokens" gives them so many on average and about as many tokens each,
    more of short texts and fewer of long ones, which keeps a GPU busy. `temperature` flattens the languages' shares
    (1 = as the data is, towards 0 = equal). `source_share` of the texts are the source language itself.
    `joined` is the share of batches whose texts are joined to passages as long as the student reads, where texts have
    partners (targets.partner). `token_dropout` hides that share of tokens, `split_tokens` cuts that share into
    smaller ones (see kdserve.distill.data.splitting).
    """

    batch_by: Literal["texts", "tokens"] = "texts"
    table_rate: float = 1e-3
    body_rate: float = 2e-4
    temperature: float = 0.5
    source_share: float = 0.15
    joined: float = 0.0
    token_dropout: float = 0.0
    split_tokens: float = 0.0

    def __post_init__(self) -> None:
        self.require_loop()
        require(self, **_TRAIN_RANGES)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationRecipe:
    """Held-out sentences: `permille` of the source sentences, at most `max_pairs` a language and domain.

    `questions` is a folder as `kdserve evaluate --qa` takes it, relative to `data_dir`: whether its questions find
    their paragraphs then counts for half when the best weights are chosen. Report on other questions.
    """

    permille: int = 5
    max_pairs: int = 200
    questions: str = ""

    def __post_init__(self) -> None:
        require(self, permille="[0, 1000)", max_pairs="[1, inf)")
