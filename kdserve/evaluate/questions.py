"""Question answering by retrieval: does a question find the sentence, and the paragraph, that answers it?

The layout and the pooled measure are those of LAReQA (Roy et al. 2020, arXiv:2004.05484): the same questions and
paragraphs in several languages. Axes: Q questions, N candidates, S sentences, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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

Matrix = Mapping[str, Mapping[str, float]]
Numbers = npt.NDArray[np.int64]
Score = Callable[[Embeddings, str], Embeddings]
"""Of questions' vectors and a language: the score (Q, N) of each of its candidates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question; the numbers of the paragraph that answers it and of the sentence, counted over all paragraphs."""

    text: str
    paragraph: int
    sentence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSet:
    """One language: questions by an id that all languages share, paragraphs, the sentences of them all, and the number
    of the paragraph of each sentence.
    """

    questions: Mapping[str, Question]
    paragraphs: Sequence[str]
    sentences: Sequence[str]
    owners: Sequence[int]


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
        DataError: no such folder or files, two of one language, none in `languages`, a line of another form, or
            languages without the same questions.
    """
    found: dict[str, QuestionSet] = {}
    for path in files_of(folder, "*.jsonl", "*.jsonl.gz"):
        language = path.name.removesuffix(".gz").removesuffix(".jsonl")
        if language in found:
            raise DataError(f"{folder} has {language}.jsonl and {language}.jsonl.gz; take one of them out")
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
    """Measure questions against paragraphs, against sentences, and against paragraphs by the mean of their own score
    and their best sentence's, as an index orders them: in every ordered pair of languages.
    """
    ids = list(next(iter(sets.values())).questions)
    asked = {language: embedder.encode_query([one.questions[i].text for i in ids]) for language, one in sets.items()}
    progress("questions", 1, 3)
    paragraphs = {language: embedder.encode_document(one.paragraphs) for language, one in sets.items()}
    progress("questions", 2, 3)
    sentences = {language: embedder.encode_document(one.sentences) for language, one in sets.items()}
    progress("questions", 3, 3)
    right = {
        unit: {language: np.array([getattr(one.questions[i], unit) for i in ids]) for language, one in sets.items()}
        for unit in ("paragraph", "sentence")
    }

    def reranked(asked_QD: Embeddings, language: str) -> Embeddings:
        found_QS, best_QN = asked_QD @ sentences[language].T, asked_QD @ paragraphs[language].T
        owners_S = np.array(sets[language].owners)
        for number in range(len(paragraphs[language])):
            best_QN[:, number] += found_QS[:, owners_S == number].max(axis=1, initial=-np.inf)
        best_QN *= 0.5
        return best_QN

    return [
        _figures("paragraph", asked, lambda asked_QD, one: asked_QD @ paragraphs[one].T, right["paragraph"]),
        _figures("sentence", asked, lambda asked_QD, one: asked_QD @ sentences[one].T, right["sentence"]),
        _figures("reranked paragraph", asked, reranked, right["paragraph"]),
    ]


def _figures(unit: str, asked: Mapping[str, Embeddings], score: Score, right: Mapping[str, Numbers]) -> AnswerFigures:
    recall: dict[str, dict[str, float]] = {}
    precisions: list[float] = []
    for one, asked_QD in asked.items():
        scores = {other: score(asked_QD, other) for other in right}
        recall[one] = {other: _recall(scores_QN, right[other]) for other, scores_QN in scores.items()}
        precisions += _pooled(scores, right)
    return AnswerFigures(
        unit=unit,
        num_questions=len(next(iter(asked.values()))),
        num_candidates={language: scores_QN.shape[1] for language, scores_QN in scores.items()},
        recall_at_1=recall,
        pooled=_mean(precisions),
    )


def _recall(scores_QN: Embeddings, right_Q: Numbers) -> float:
    """Share of questions whose answer is nearer than every other candidate."""
    rows, others_QN = np.arange(len(right_Q)), scores_QN.copy()
    others_QN[rows, right_Q] = -np.inf
    return float((scores_QN[rows, right_Q] > others_QN.max(axis=1, initial=-np.inf)).mean())


def _pooled(scores: Mapping[str, Embeddings], right: Mapping[str, Numbers]) -> list[float]:
    """Average precision of each question where the candidates of all languages lie in one pool."""
    pool_QN = np.concatenate(list(scores.values()), axis=1)
    starts = np.cumsum([0, *(scores_QN.shape[1] for scores_QN in scores.values())])[:-1]
    right_QL = np.stack([right[language] + start for language, start in zip(scores, starts, strict=True)], axis=1)
    found = []
    for scores_N, right_L in zip(pool_QN, right_QL, strict=True):
        is_right = np.zeros(len(scores_N), dtype=bool)
        is_right[right_L] = True
        found.append(average_precision(answer_ranks(scores_N[is_right], scores_N[~is_right])))
    return found


def _read(path: Path) -> QuestionSet:
    questions: dict[str, Question] = {}
    paragraphs: list[str] = []
    sentences: list[str] = []
    owners: list[int] = []
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
        owners += [len(paragraphs)] * len(own)
        paragraphs.append(" ".join(own))
        sentences += own
    if not questions:
        raise DataError(f"{path} has no question; nothing can be measured")
    return QuestionSet(questions=questions, paragraphs=paragraphs, sentences=sentences, owners=owners)


def _parse(row: Any) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Return a paragraph's sentences, and the id, text and sentence of each question; wrong types are errors."""
    sentences = [_text(sentence) for sentence in _list(row["sentences"])]
    asked = [(_text(one["id"]), _text(one["question"]), one["answer_sentence"]) for one in _list(row["qas"])]
    for _, _, sentence in asked:
        if type(sentence) is not int or not 0 <= sentence < len(sentences):
            raise ValueError(f"answer_sentence {sentence!r} of {len(sentences)} sentences")
    return sentences, asked


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"no list but {value!r:.40}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"no text but {value!r}")
    return value


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
