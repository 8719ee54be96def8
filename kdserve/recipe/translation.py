"""Recipes of students that write: `task = "translate"` or `"summarise"`, with sections of their own.

They read a pair's translation and write its source sentence: into English where the data's source is English. For
summaries the translation is the text and the source its summary. Columns of `[[data]]` turn a direction round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kdserve.recipe.base import PairsRecipe
from kdserve.recipe.loop import LoopRecipe
from kdserve.recipe.sections import BODY_RANGES, LEAST_VOCABULARY, MOST_LAYERS
from kdserve.toml import require, require_rules


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterRecipe:
    """Pairs that are left out before anything is learned (0 and false = off).

    `max_ratio`: one side is longer than the other, in bytes, by more than this times what is usual in the language.
    `script`: less than half of a side's letters are of the language's script. `repeats`: a pair that was there before,
    sides that are equal, and a side less than half of whose runs of four characters are different. `max_characters`:
    a side is longer.
    """

    max_ratio: float = 3.0
    script: bool = True
    repeats: bool = True
    max_characters: int = 0

    def __post_init__(self) -> None:
        require(self, max_characters="[0, inf)")
        require_rules(("max_ratio", self.max_ratio == 0 or self.max_ratio > 1, "must be 0 or above 1"))


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterTeacherRecipe:
    """The teacher: a transformers encoder-decoder in a folder, or a hub name at a pinned revision; empty: none.

    A folder is relative to `data_dir` or to the working folder.
    A translator's bundle, in a folder or published, teaches by its outputs alone, in its own precision.
    It writes with `num_beams` beams, ranked by log probability over length ** `length_penalty`; of `candidates` of them
    the one nearest to the reference by sentence BLEU is the target (Kim & Rush 2016, arXiv:1606.07947; 1 = the best
    beam as it is). `prefix` stands before each source ("translate German to English: " of T5). `source_codes` name the
    languages as the teacher does ({ zh = "zho_Hans" }), `target_code` the one that it writes (mBART, M2M100, NLLB).
    """

    model: str = ""
    revision: str = ""
    batch_size: int = 32
    num_beams: int = 4
    candidates: int = 4
    length_penalty: float = 1.0
    prefix: str = ""
    source_codes: dict[str, str] = field(default_factory=dict)
    target_code: str = ""

    def __post_init__(self) -> None:
        require(self, batch_size="[1, inf)", num_beams="[1, inf)", candidates="[1, inf)", length_penalty="[0, inf)")
        require_rules(
            ("candidates", self.candidates <= self.num_beams, "must be num_beams at most"),
            ("source_codes", bool(self.target_code) or not self.source_codes, "needs target_code"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetVocabularyRecipe:
    """The vocabulary that a new decoder writes with: BPE of `size` tokens, trained on up to `sentences` targets.

    `source_size` is that of a Unigram vocabulary for what is read, where the student has neither teacher nor encoder
    to take one from.
    """

    size: int = 16_000
    source_size: int = 32_000
    sentences: int = 1_000_000

    def __post_init__(self) -> None:
        sizes = f"[{LEAST_VOCABULARY}, inf)"
        require(self, size=sizes, source_size=sizes, sentences="[1, inf)")


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterBodyRecipe:
    """A body of one's own size, drawn at random: of the teacher's architecture, without one BERT's."""

    width: int
    encoder_layers: int = 6
    decoder_layers: int = 2
    heads: int = 4
    feed_forward: int = 1024

    def __post_init__(self) -> None:
        layers = f"[1, {MOST_LAYERS}]"
        require(self, **BODY_RANGES, encoder_layers=layers, decoder_layers=layers)
        require_rules(("heads", self.width % self.heads == 0, f"must divide the width {self.width}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterStudentRecipe:
    """What is trained, by the first of these that is set.

    `start`: a student that writes, to go on from. `encoder`: what reads in a student that embeds or writes, with its
    tokens, of which `encoder_layers` stay (empty: all), under a new decoder of `num_decoder_layers` layers;
    `warm_decoder` begins those as copies of encoder layers, spread over all of them, and target tokens as what the
    encoder's table says of their letters (Rothe et al. 2020, arXiv:1907.12461). `body`: a body of one's own size.
    Else copies of the teacher's `encoder_layers` and `decoder_layers`, from 0 (empty: all; Shleifer & Rush 2020,
    arXiv:2010.13002).

    Start and encoder are named by a student's folder; `kdserve distill` takes a bundle's, or a published name, too.
    Longer sources are cut at `max_tokens`, what is written at `max_output_tokens`.
    """

    start: str = ""
    encoder: str = ""
    encoder_layers: tuple[int, ...] = ()
    decoder_layers: tuple[int, ...] = ()
    num_decoder_layers: int = 2
    warm_decoder: bool = True
    body: WriterBodyRecipe | None = None
    max_tokens: int = 128
    max_output_tokens: int = 96
    dropout: float = 0.1

    def __post_init__(self) -> None:
        tokens = {"max_tokens": "[4, inf)", "max_output_tokens": "[4, inf)", "num_decoder_layers": "[1, inf)"}
        require(self, encoder_layers="[0, inf)", decoder_layers="[0, inf)", dropout="[0, 1)", **tokens)
        whole = bool(self.start or self.body)
        require_rules(
            ("start", not (self.start and (self.encoder or self.body)), "has a body already; remove encoder and body"),
            ("encoder", not (self.encoder and self.body), "has a body already; remove student.body"),
            ("encoder_layers", not (whole and self.encoder_layers), "goes with an encoder or a teacher's layers"),
            ("decoder_layers", not ((whole or self.encoder) and self.decoder_layers), "goes with a teacher's layers"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WritingObjectiveRecipe:
    """What is learned. Without a teacher: the references.

    `teacher_share` of the pairs have what the teacher wrote as their target, the others their reference. The loss of a
    token is (1 - alpha) · cross-entropy with `label_smoothing` + alpha · T² · KL from the teacher's `top_k` likeliest
    tokens at `temperature` T, which are kept on disk. `hidden` and `attention` are weights of the encoder states (mean
    squared error) and attention maps (KL) of `map`'s pairs [student layer, teacher layer]; the teacher runs beside.
    """

    teacher_share: float = 1.0
    alpha: float = 0.0
    temperature: float = 1.0
    top_k: int = 8
    label_smoothing: float = 0.1
    map: tuple[tuple[int, ...], ...] = ()
    hidden: float = 0.0
    attention: float = 0.0

    def __post_init__(self) -> None:
        require(
            self,
            teacher_share="[0, 1]",
            alpha="[0, 1]",
            temperature="(0, inf)",
            top_k="[1, inf)",
            label_smoothing="[0, 1)",
            hidden="[0, inf)",
            attention="[0, inf)",
        )
        if any(len(pair) != 2 or min(pair) < 0 for pair in self.map):
            raise ValueError(f"map is {self.map}; it must hold pairs [student layer, teacher layer], from 0")
        require_rules(("map", bool(self.map) == self.needs_states, "and hidden or attention go together"))

    @property
    def needs_states(self) -> bool:
        """Whether the teacher runs beside the student."""
        return self.hidden > 0 or self.attention > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterTrainRecipe(LoopRecipe):
    """The training loop.

    Each part has a rate of its own, 0 leaves it as it starts: the encoder's token table where nothing else uses it, the
    rest of the encoder, the decoder. `temperature` flattens the languages' shares (1 = as the data is, towards 0 =
    equal).
    """

    table_rate: float = 0.0
    encoder_rate: float = 2e-4
    decoder_rate: float = 1e-3
    temperature: float = 0.7

    def __post_init__(self) -> None:
        self.require_loop()
        require(self, **dict.fromkeys(("table_rate", "encoder_rate", "decoder_rate"), "[0, inf)"), temperature="(0, 1]")
        rates = self.table_rate + self.encoder_rate + self.decoder_rate
        require_rules(("decoder_rate", rates > 0, "is 0 like the other rates; nothing would be trained"))


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceRecipe(PairsRecipe):
    """How a student that writes is made.

    Pairs are held out by what is written, so that all languages' versions go together; `hold_out = "names"` is for
    texts that are no translations of each other word by word but speak of the same things: what shares a rare name (a
    word in Latin letters that two languages have, in 100 pairs at most) goes together.
    """

    task: Literal["translate", "summarise"]
    hold_out: Literal["written", "names"] = "written"
    filter: FilterRecipe = field(default_factory=FilterRecipe)
    teacher: WriterTeacherRecipe = field(default_factory=WriterTeacherRecipe)
    vocabulary: TargetVocabularyRecipe = field(default_factory=TargetVocabularyRecipe)
    student: WriterStudentRecipe = field(default_factory=WriterStudentRecipe)
    objective: WritingObjectiveRecipe = field(default_factory=WritingObjectiveRecipe)
    train: WriterTrainRecipe = field(default_factory=WriterTrainRecipe)

    def __post_init__(self) -> None:
        self.require_data()
        student, aims = self.student, self.objective
        taught = bool(self.teacher.model)
        require_rules(
            (
                "teacher.model",
                taught or bool(student.start or student.encoder or student.body),
                "is missing: the student has neither a start nor an encoder nor a body of its own",
            ),
            ("validation.questions", not self.validation.questions, "needs a student that embeds; remove it"),
            ("objective.alpha", taught or not aims.alpha, "needs a teacher"),
            ("objective.map", taught or not aims.map, "needs a teacher"),
            (
                "data",
                all(entry.translation for entry in self.data),
                "needs `translation`: single sentences teach nothing",
            ),
        )

    @property
    def learns_outputs(self) -> bool:
        """Whether a teacher writes targets."""
        return bool(self.teacher.model) and self.objective.teacher_share > 0
