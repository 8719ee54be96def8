"""Question answering by retrieval: does a question find the sentence, and the paragraph, that answers it?

The layout and the pooled measure are those of LAReQA (Roy et al. 2020, arXiv:2004.05484): the same questions and
paragraphs in several languages. Axes: Q questions, N candidates, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Embedder, Embeddings, Progress, no_progress
from kdserve.errors import DataError
from kdserve.evaluate.files import files_of, lines_of, require_found
from kdserve.evaluate.retrieval import answer_ranks, average_precision
from kdserve.json_files import parse_json

UNITS = ("paragraph", "sentence")
Matrix = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question; the numbers of the paragraph that answers it and of the sentence, counted over all paragraphs."""

    text: str
    paragraph: int
    sentence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSet:
    """One language: questions by an id that all languages share, paragraphs, and the sentences of them all."""

    questions: Mapping[str, Question]
    paragraphs: Sequence[str]
    sentences: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFigures:
    """How often a question's nearest candidate is its answer; all figures 0 to 1.

    `recall_at_1[asked][answered]` are the languages of questions and of candidates. `pooled` is mean average precision
    where the candidates of all languages lie in one pool and the answer in each of them is right.
    """

    unit: str
    num_questions: int
    num_candidates: Mapping[str, int]
    recall_at_1: Matrix
    pooled: float

    @property
    def within(self) -> dict[str, float]:
        """Each language's figure by itself."""
        return {language: row[language] for language, row in self.recall_at_1.items()}

    @property
    def asked(self) -> dict[str, float]:
        """Mean over the other languages of the answers, by the questions' language."""
        return {one: _mean([row[other] for other in row if other != one]) for one, row in self.recall_at_1.items()}

    @property
    def answered(self) -> dict[str, float]:
        """Mean over the other languages of the questions, by the answers' language."""
        rows = self.recall_at_1
        return {one: _mean([rows[other][one] for other in rows if other != one]) for one in rows}


def read_questions(folder: Path, *, languages: Collection[str] | None = None) -> dict[str, QuestionSet]:
    """Read a folder of `<language>.jsonl` or `<language>.jsonl.gz`, one paragraph a line.

    A line has `sentences`, a list, and `qas`, a list of `id`, `question` and `answer_sentence`, which counts from 0.

    Raises:
        DataError: no such folder or files, none in `languages`, a line of another form, or languages without the same
            questions.
    """
    found = {}
    for path in files_of(folder, "*.jsonl*"):
        language = path.name.removesuffix(".gz").removesuffix(".jsonl")
        if languages is None or language in languages:
            found[language] = _read(path)
    require_found(found, folder, languages)
    first, *others = found
    for other in others:
        if found[other].questions.keys() != found[first].questions.keys():
            raise DataError(f"{folder}: {other} has other questions than {first}; all languages must have the same")
    return found


def measure_answers(
    embedder: Embedder, sets: Mapping[str, QuestionSet], *, progress: Progress = no_progress
) -> list[AnswerFigures]:
    """Measure questions against paragraphs, then against sentences, in every ordered pair of languages."""
    ids = list(next(iter(sets.values())).questions)
    asked = {language: embedder.encode_query([one.questions[i].text for i in ids]) for language, one in sets.items()}
    figures = []
    for done, unit in enumerate(UNITS, start=1):
        candidates = {
            language: embedder.encode_document(one.paragraphs if unit == "paragraph" else one.sentences)
            for language, one in sets.items()
        }
        answers = {language: np.array([getattr(one.questions[i], unit) for i in ids]) for language, one in sets.items()}
        figures.append(
            AnswerFigures(
                unit=unit,
                num_questions=len(ids),
                num_candidates={language: len(vectors) for language, vectors in candidates.items()},
                recall_at_1={
                    one: {other: _recall(asked[one], candidates[other], answers[other]) for other in sets}
                    for one in sets
                },
                pooled=_pooled(asked, candidates, answers),
            )
        )
        progress("questions", done, len(UNITS))
    return figures


def _recall(asked_QD: Embeddings, candidates_ND: Embeddings, answer_Q: npt.NDArray[np.int64]) -> float:
    """Share of questions whose answer is nearer than every other candidate."""
    scores_QN = asked_QD @ candidates_ND.T
    rows = np.arange(len(answer_Q))
    right_Q = scores_QN[rows, answer_Q].copy()
    scores_QN[rows, answer_Q] = -np.inf
    return float((right_Q > scores_QN.max(axis=1, initial=-np.inf)).mean())


def _pooled(
    asked: Mapping[str, Embeddings], candidates: Mapping[str, Embeddings], answers: Mapping[str, npt.NDArray[np.int64]]
) -> float:
    pool_ND = np.concatenate(list(candidates.values()))
    starts = np.cumsum([0, *map(len, candidates.values())])[:-1]
    right_QL = np.stack([answers[language] + start for language, start in zip(candidates, starts, strict=True)], axis=1)
    found = []
    for asked_QD in asked.values():
        for scores_N, right_L in zip(asked_QD @ pool_ND.T, right_QL, strict=True):
            is_right = np.zeros(len(scores_N), dtype=bool)
            is_right[right_L] = True
            found.append(average_precision(answer_ranks(scores_N[is_right], scores_N[~is_right])))
    return _mean(found)


def _read(path: Path) -> QuestionSet:
    questions: dict[str, Question] = {}
    paragraphs: list[str] = []
    sentences: list[str] = []
    for number, line in enumerate(lines_of(path), start=1):
        try:
            own, asked = _parse(parse_json(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: expected sentences, and qas with id, question and answer_sentence ({error})"
            ) from error
        for name, text, sentence in asked:
            if name in questions:
                raise DataError(f"{path}, line {number}: question {name} occurs twice; ids must be unique")
            questions[name] = Question(text=text, paragraph=len(paragraphs), sentence=len(sentences) + sentence)
        paragraphs.append(" ".join(own))
        sentences += own
    if not questions:
        raise DataError(f"{path} has no question; nothing can be measured")
    return QuestionSet(questions=questions, paragraphs=paragraphs, sentences=sentences)


def _parse(row: Any) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Return a paragraph's sentences, and the id, text and sentence of each question; wrong types are errors."""
    sentences = [_text(sentence) for sentence in row["sentences"]]
    asked = [(_text(one["id"]), _text(one["question"]), one["answer_sentence"]) for one in row["qas"]]
    for _, _, sentence in asked:
        if not isinstance(sentence, int) or not 0 <= sentence < len(sentences):
            raise ValueError(f"answer_sentence {sentence!r} of {len(sentences)} sentences")
    return sentences, asked


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"no text but {value!r}")
    return value


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
