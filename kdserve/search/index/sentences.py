"""The sentences of a segment's passages, each with a vector of its own.

`sentences.i32` says of each which row it belongs to and which characters of that passage, as three int32: row, start,
end. A passage that is a single sentence has none. Vectors are in int8 whatever the precision of the passages': there
are some five times as many, and they order what the passages' vectors found.

S sentences, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Embeddings, Sentence
from kdserve.errors import FolderError
from kdserve.search.backends.topk import Scores, true_scores
from kdserve.search.backends.vectors import Precision, Rows, VectorFile, encode_rows
from kdserve.search.documents.passages import Span

SENTENCES, SENTENCE_VECTORS, SENTENCE_SUMS = "sentences.i32", "sentence_vectors.bin", "sentence_vectors.sums"
SENTENCE_BYTES = 12
SENTENCE_PRECISION: Precision = "int8"


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceRows:
    """Where the sentences of some passages stand, passage by passage, and the encoded vectors (S) of all in order."""

    spans: Sequence[Sequence[Span]]
    rows: npt.NDArray[Any]

    @classmethod
    def encoded(cls, spans: Sequence[Sequence[Span]], vectors_SD: Embeddings) -> SentenceRows:
        """Encode the vectors as a segment keeps them."""
        return cls(spans=spans, rows=encode_rows(vectors_SD, SENTENCE_PRECISION))

    def placed(self, first_row: int) -> npt.NDArray[np.int32]:
        """Row, start and end of each (S, 3), where the first of these passages is row `first_row` of its segment."""
        triples = [(row, start, end) for row, some in enumerate(self.spans, first_row) for start, end in some]
        return np.asarray(triples, "<i4").reshape(-1, 3)


class SentenceFile:
    """The sentences of a finished segment, memory-mapped; vectors are checked when they are first touched."""

    def __init__(self, folder: Path, *, num_sentences: int, dim: int, passages: npt.NDArray[np.int32]) -> None:
        path = folder / SENTENCES
        self.vectors = VectorFile(
            folder / SENTENCE_VECTORS,
            folder / SENTENCE_SUMS,
            precision=SENTENCE_PRECISION,
            dim=dim,
            num_rows=num_sentences,
        )
        if path.stat().st_size != num_sentences * SENTENCE_BYTES:
            raise FolderError(f"{path} does not fit its {num_sentences} sentences; restore the index")
        self._places = np.memmap(path, "<i4", mode="r", shape=(num_sentences, 3))
        rows, starts, ends = self._places.T
        in_order = rows.min() >= 0 and rows.max() < len(passages) and (np.diff(rows) >= 0).all()
        if not in_order or starts.min() < 0 or (starts > ends).any() or (ends > _lengths(passages)[rows]).any():
            raise FolderError(f"{path} is damaged: its sentences are out of order; restore the index")
        self._first = np.searchsorted(rows, np.arange(len(passages) + 1))

    def of(self, rows: Rows) -> SentenceRows:
        """The sentences of some rows, as they are stored."""
        numbers = [self._numbers(row) for row in rows]
        spans = [self._places[some, 1:].tolist() for some in numbers]
        return SentenceRows(spans=spans, rows=self.vectors.encoded(np.concatenate(numbers)))

    def best(self, rows: Rows, question_D: Embeddings) -> tuple[Scores, Rows]:
        """Of each row the score of its sentence that is nearest to a question, and that one's number; -inf and -1 of a
        row without any.
        """
        scores, numbers = np.full(len(rows), -np.inf, np.float32), np.full(len(rows), -1)
        firsts, lengths = self._first[rows], self._first[rows + 1] - self._first[rows]
        several = np.flatnonzero(lengths)
        if len(several):
            begins = np.cumsum(lengths) - lengths
            asked = np.arange(lengths.sum()) + np.repeat(firsts - begins, lengths)
            found = true_scores(question_D[None], self.vectors, asked[None])[0]
            scores[several] = np.maximum.reduceat(found, begins[several])
            is_best = np.flatnonzero(found == np.repeat(scores, lengths))[::-1]  # so that of equal ones the first stays
            numbers[np.repeat(np.arange(len(rows)), lengths)[is_best]] = asked[is_best]
        return scores, numbers

    def nearest(self, rows: Rows, question_D: Embeddings) -> list[Sentence | None]:
        """The sentence of each row that is nearest to a question, None for a row without any."""
        scores, numbers = self.best(rows, question_D)
        places = self._places[np.maximum(numbers, 0), 1:].tolist()
        return [
            Sentence(start=start, end=end, score=score) if number >= 0 else None
            for (start, end), score, number in zip(places, scores.tolist(), numbers.tolist(), strict=True)
        ]

    def _numbers(self, row: int) -> Rows:
        return np.arange(self._first[row], self._first[row + 1])


def _lengths(passages: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The characters of each passage (row, of document, start, end)."""
    return passages[:, 2] - passages[:, 1]
