"""What kdserve-static learns from, in one folder: pairs, questions with their paragraphs, a vocabulary, tokens.

Texts are numbered: the corpus' translations, its sources, the questions of `answers.tsv`, their paragraphs, then the
questions and treebank sentences of `asked.tsv`, under which the everyday questions stand whose openings are borrowed.

Letters: Q questions.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from kdserve.distill.data.corpus import Corpus, build_corpus
from kdserve.distill.data.overlap import refuse_overlap
from kdserve.distill.data.tokens import Runs, tokenize_corpus, tokenize_texts
from kdserve.distill.data.vocabulary import draw_sentences, train_unigram
from kdserve.recipe import Recipe, load_recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kdserve-mini"))
from lessons import read_texts
from questions import QUESTION_MARK, clean, cut, evaluated, files, sentences, show

Ints = npt.NDArray[np.int64]
ASKED = {"qald", "miracl", "mrtydi", "opentriviaqa"}
"""Questions that people asked, without paragraphs."""
EVERYDAY = {"tatoeba", "tatoeba-pivot", "tatoeba-pivot2", "tanaka", "opensubs-xed"}
WIKI = {"jaquad", "drcd", "cmrc2018", "arcd", "piaf", "faquad", "iapp-wiki-qa", "indic-wiki", "tico19", "pud", *ASKED}
HELD_OUT = 20
"""One in so many articles is kept for validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Questions and the numbers of their paragraphs, (Q,); `held_out` ones are for validation."""

    language: npt.NDArray[np.str_]
    data_set: npt.NDArray[np.str_]
    article: Ints
    questions: list[str]
    paragraph: Ints
    paragraphs: list[str]

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Say which questions are kept for validation, (Q,)."""
        held: npt.NDArray[np.bool_] = self.article * 7919 % 1000 < 1000 // HELD_OUT
        return held


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """All texts, and their tokens by number."""

    corpus: Corpus
    tokenizer: Tokenizer
    tokens: Runs
    answers: Answers
    asked: list[list[str]]
    """Language, role, group, domain, text."""

    @property
    def first_question(self) -> int:
        """Number of the first question; paragraphs follow, then what is asked."""
        return len(self.corpus.translations) + len(self.corpus.sources)

    @property
    def first_paragraph(self) -> int:
        """Number of the first paragraph."""
        return self.first_question + len(self.answers.questions)

    @property
    def first_asked(self) -> int:
        """Number of the first text of `asked`."""
        return self.first_paragraph + len(self.answers.paragraphs)


def open_recipe(data: Path) -> Recipe:
    """Return the recipe beside this file: where the pairs lie, and the vocabulary's size."""
    return replace(load_recipe(Path(__file__).with_name("recipe.toml")), data_dir=str(data))


def gather(checkouts: Path, data: Path, texts: Path, work: Path) -> None:
    """Write the corpus, the questions, the vocabulary and the tokens below `work`; `texts` is of questions.py."""
    recipe = open_recipe(data)
    corpus = build_corpus(recipe, work / "corpus")
    refuse_overlap(corpus, recipe)
    rows = read_texts(texts)
    asked = [row for row in rows if row[3] in ASKED or (row[1] == "p" and row[3] == "pud") or is_question(row)]
    (work / "asked.tsv").write_text("".join("\t".join(row) + "\n" for row in asked), encoding="utf-8")
    seen, found = evaluated(data), dict.fromkeys(answered(checkouts))
    kept = [row for row in found if len(row[3]) > 3 and not (sentences(row[3]) | sentences(row[4])) & seen]
    (work / "answers.tsv").write_text("".join("\t".join(row) + "\n" for row in kept), encoding="utf-8")
    if not (work / "tokenizer.json").is_file():
        drawn = draw_sentences(corpus, recipe.vocabulary, seed=recipe.seed)
        drawn += [row[4] for row in rows if row[3] in WIKI and not (row[3] == "pud" and row[1] == "q")]
        train_unigram(drawn, recipe.vocabulary.size).save(str(work / "tokenizer.json"))
    open_gathered(data, work)


def open_gathered(data: Path, work: Path) -> Gathered:
    """Open what `gather` wrote; the corpus' tokens are kept, those of other texts made anew."""
    recipe = open_recipe(data)
    corpus = build_corpus(recipe, work / "corpus")
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    most = recipe.student.max_tokens
    tokens = tokenize_corpus(corpus, tokenizer, work / "tokens", max_tokens=most)
    answers, asked = read_answers(work / "answers.tsv"), read_texts(work / "asked.tsv")
    other = tokenize_texts(
        tokenizer, [*answers.questions, *answers.paragraphs, *(row[4] for row in asked)], max_tokens=most
    )
    all_tokens = Runs(
        ids=np.concatenate([tokens.ids, other.ids]),
        offsets=np.concatenate([tokens.offsets, other.offsets[1:] + tokens.offsets[-1]]),
    )
    return Gathered(corpus=corpus, tokenizer=tokenizer, tokens=all_tokens, answers=answers, asked=asked)


def is_question(row: list[str]) -> bool:
    """Say whether a row is an everyday question, by its English side."""
    return row[1] == "q" and row[3] in EVERYDAY and bool(QUESTION_MARK.search(row[2]))


def answered(checkouts: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield language, data set, article, question and paragraph."""
    for language, data_set, found in (
        ("ja", "jaquad", squad(checkouts, "SkelterLabsInc/JaQuAD", "data/train/")),
        ("zh", "drcd", squad(checkouts, "DRCKnowledgeTeam/DRCD", "DRCD_")),
        ("zh", "cmrc2018", squad(checkouts, "ymcui/cmrc2018", "data/cmrc2018_")),
        ("ar", "arcd", squad(checkouts, "husseinmozannar/SOQAL", "data/arcd.json")),
        ("fr", "piaf", squad(checkouts, "etalab-ia/piaf-code", "piaf-v1.0.json")),
        ("pt", "faquad", squad(checkouts, "liafacom/faquad", "data/dataset.json")),
        ("th", "iapp-wiki-qa", thai(checkouts)),
    ):
        for article, question, paragraph in found:
            yield language, data_set, clean(article), clean(question), cut(clean(paragraph), language)


def squad(checkouts: Path, repository: str, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield article, question and paragraph of files laid out as SQuAD's, or as CMRC's are."""
    for name in files(checkouts, repository, prefix, ".json"):
        record = json.loads(show(checkouts, repository, name))
        topics = (
            [[one] for one in record] if isinstance(record, list) else [one["paragraphs"] for one in record["data"]]
        )
        for number, topic in enumerate(topics):
            for part in topic:
                for one in part["qas"]:
                    paragraph = part.get("context") or part["context_text"]
                    yield f"{name} {number}", one.get("question") or one["query_text"], paragraph


def thai(checkouts: Path) -> Iterator[tuple[str, str, str]]:
    """Yield article, question and paragraph of iapp-wiki-qa-dataset."""
    raw = show(checkouts, "iapp-technology/iapp-wiki-qa-dataset", "squad_format/data.zip")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for line in (line for name in archive.namelist() for line in archive.read(name).splitlines() if line):
            row = json.loads(line)
            yield row["title"], row["question"], row["context"]


def read_answers(path: Path) -> Answers:
    """Read what `gather` wrote."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    articles: dict[tuple[str, str], int] = {}
    paragraphs: dict[tuple[str, str], int] = {}
    return Answers(
        language=np.array([row[0] for row in rows]),
        data_set=np.array([row[1] for row in rows]),
        article=np.array([articles.setdefault((row[1], row[2]), len(articles)) for row in rows]),
        questions=[row[3] for row in rows],
        paragraph=np.array([paragraphs.setdefault((row[1], row[4]), len(paragraphs)) for row in rows]),
        paragraphs=[paragraph for _, paragraph in paragraphs],
    )
