"""A segment: documents, their passages and vectors, written once and never changed.

A row is one passage with one vector. `passages.i32` says of each row which document it belongs to and which characters
of it, as three int32: doc, start, end. The sentences of passages stand beside them, where they are kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Embeddings, Scalar
from kdserve.errors import FolderError
from kdserve.search.backends.topk import Mask, Scores, true_scores
from kdserve.search.backends.vectors import Precision, Rows, VectorFile, row_dtype, write_sums
from kdserve.search.documents.document import Document
from kdserve.search.documents.passages import Span
from kdserve.search.index.document_file import DocumentFile, DocumentWriter, StoredDocument
from kdserve.search.index.sentences import (
    SENTENCE_BYTES,
    SENTENCE_PRECISION,
    SENTENCE_SUMS,
    SENTENCE_VECTORS,
    SENTENCES,
    SentenceFile,
    SentenceRows,
)

ROWS, VECTORS, SUMS, PASSAGES = "rows.db", "vectors.bin", "vectors.sums", "passages.i32"
APPROXIMATE = "vectors.faiss"
PASSAGE_BYTES = 12
NUM_SENTENCES = "number of sentences"
MOST_WEIGHED = 8
"""How many passages of a document that was found by its words are weighed with their sentences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentRecord:
    """What an index remembers of a segment: its folder, its size, whether it has a compressed FAISS index beside its
    vectors, the file of its deleted rows, if any, and how many sentences it keeps."""

    folder: str
    num_rows: int
    num_documents: int
    approximate: bool = False
    deleted: str | None = None
    num_sentences: int = 0

    @property
    def files(self) -> list[str]:
        """The paths of its files in the index."""
        names = [ROWS, VECTORS, SUMS, PASSAGES, *([APPROXIMATE] if self.approximate else [])]
        names += [SENTENCES, SENTENCE_VECTORS, SENTENCE_SUMS] if self.num_sentences else []
        return [f"{self.folder}/{name}" for name in names] + ([self.deleted] if self.deleted is not None else [])


class SegmentWriter:
    """Appends documents with their passages and vectors to a folder, and can go on there after a crash.

    Rows after the last checkpoint are dropped when the folder is opened again.
    """

    def __init__(self, folder: Path, *, dim: int, precision: Precision, lexical: bool) -> None:
        self.folder, self.precision = folder, precision
        self._rows = DocumentWriter(folder / ROWS, lexical=lexical)
        self._row_bytes = row_dtype(precision, dim).itemsize
        self._vectors = _open_at(folder / VECTORS, self._rows.num_rows * self._row_bytes)
        self._passages = _open_at(folder / PASSAGES, self._rows.num_rows * PASSAGE_BYTES)
        self._sentence_bytes = row_dtype(SENTENCE_PRECISION, dim).itemsize
        self._num_sentences = int(self._rows.state().get(NUM_SENTENCES) or 0)
        self._sentences = _open_at(folder / SENTENCES, self._num_sentences * SENTENCE_BYTES)
        self._sentence_vectors = _open_at(folder / SENTENCE_VECTORS, self._num_sentences * self._sentence_bytes)

    @property
    def num_documents(self) -> int:
        """Documents appended so far."""
        return self._rows.num_documents

    @property
    def num_rows(self) -> int:
        """Passages appended so far."""
        return self._rows.num_rows

    def append(
        self,
        documents: Sequence[Document],
        spans: Sequence[Sequence[Span]],
        rows: npt.NDArray[Any],
        sentences: SentenceRows | None,
    ) -> None:
        """Add documents; `spans[n]` are the passages of the n-th, `rows` the encoded vectors of all in order."""
        first = self._rows.num_documents
        triples = [(first + n, start, end) for n, passages in enumerate(spans) for start, end in passages]
        assert len(triples) == len(rows)
        if sentences is not None:
            self._sentences.write(sentences.placed(self.num_rows).tobytes())
            self._sentence_vectors.write(sentences.rows.tobytes())
            self._num_sentences += len(sentences.rows)
        self._rows.append(documents, [len(passages) for passages in spans])
        self._passages.write(np.asarray(triples, "<i4").tobytes())
        self._vectors.write(rows.tobytes())

    def checkpoint(self, state: Mapping[str, Scalar] | None = None) -> None:
        """Make everything so far durable: first vectors and places, then the documents that count them."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        self._rows.checkpoint({**(state or {}), NUM_SENTENCES: self._num_sentences})

    def state(self) -> dict[str, Scalar]:
        """The named values of the last checkpoint."""
        return self._rows.state()

    def seal(self, folder_name: str) -> SegmentRecord:
        """Finish the segment and say what to remember of it, under the name that its folder has in the index."""
        self.checkpoint()
        record = SegmentRecord(
            folder=folder_name,
            num_rows=self.num_rows,
            num_documents=self.num_documents,
            num_sentences=self._num_sentences,
        )
        self.close()
        write_sums(self.folder / VECTORS, self.folder / SUMS, self._row_bytes)
        if record.num_sentences:
            write_sums(self.folder / SENTENCE_VECTORS, self.folder / SENTENCE_SUMS, self._sentence_bytes)
        else:
            (self.folder / SENTENCES).unlink()
            (self.folder / SENTENCE_VECTORS).unlink()
        return record

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            file.close()
        self._rows.close()

    @property
    def _files(self) -> tuple[BinaryIO, ...]:
        return self._vectors, self._passages, self._sentences, self._sentence_vectors


class Segment:
    """A finished segment, memory-mapped. `live` is None or a mask (num_rows,) that is False on deleted rows."""

    def __init__(self, index: Path, record: SegmentRecord, *, dim: int, precision: Precision) -> None:
        self.folder = folder = index / record.folder
        self.record, self.num_rows = record, record.num_rows
        self.stored = DocumentFile(folder / ROWS, num_documents=record.num_documents, num_rows=record.num_rows)
        self.vectors = VectorFile(
            folder / VECTORS, folder / SUMS, precision=precision, dim=dim, num_rows=record.num_rows
        )
        passages = folder / PASSAGES
        if passages.stat().st_size != record.num_rows * PASSAGE_BYTES:
            raise FolderError(f"{passages} does not fit its {record.num_rows} rows; restore the index")
        self.passages: npt.NDArray[np.int32] = np.memmap(passages, "<i4", mode="r", shape=(record.num_rows, 3))
        self.has_split_documents = record.num_rows > record.num_documents
        self._require_order(passages)
        self.sentences = (
            SentenceFile(folder, num_sentences=record.num_sentences, dim=dim, passages=self.passages)
            if record.num_sentences
            else None
        )
        self.live: npt.NDArray[np.bool_] | None = None
        if record.deleted is not None:
            self.live = ~read_bits(index / record.deleted, record.num_rows)

    def _require_order(self, path: Path) -> None:
        """Passages belong to the documents in order, and to every one."""
        docs, starts, ends = self.passages.T
        steps = np.diff(docs, prepend=np.int32(-1))
        in_order = steps.min() >= 0 and steps.max() <= 1 and docs[0] == 0 and docs[-1] == self.record.num_documents - 1
        if not in_order or starts.min() < 0 or (starts > ends).any():
            raise FolderError(f"{path} is damaged: its passages are out of order; restore the index")

    def first_by_words(self, text: str, k: int, allowed: Mask | None) -> list[tuple[float, int]]:
        """The `k` documents that BM25 ranks first among the allowed ones, with their scores."""
        ranked = ((score, doc) for doc, score in self.stored.ranked(text))
        return list(islice((one for one in ranked if allowed is None or allowed[self._rows_of_one(one[1]).start]), k))

    def best_rows(self, docs: Sequence[int], vector: Embeddings, *, by_sentences: bool) -> list[tuple[int, float]]:
        """The row of each document that is nearest to a query vector (D,), and its score; or the best by its sentences
        too, of the `MOST_WEIGHED` nearest.
        """
        if not docs:
            return []
        rows = [np.arange(own.start, own.stop) for own in map(self._rows_of_one, docs)]
        scores = _split(true_scores(vector[None], self.vectors, np.concatenate(rows)[None])[0], rows)
        if by_sentences:
            nearest = [np.sort(np.argsort(-own, kind="stable")[:MOST_WEIGHED]) for own in scores]
            rows = [own[few] for own, few in zip(rows, nearest, strict=True)]
            scores = [own[few] for own, few in zip(scores, nearest, strict=True)]
            scores = _split(self.weighed(np.concatenate(rows), np.concatenate(scores), vector), rows)
        return [(int(own[each.argmax()]), float(each.max())) for own, each in zip(rows, scores, strict=True)]

    def weighed(self, rows: Rows, scores: Scores, query: Embeddings) -> Scores:
        """Of rows that a query (D,) scores so, the means of their scores and their best sentences', where they have
        several.
        """
        if self.sentences is None:
            return scores
        best, numbers = self.sentences.best(rows, query)
        return np.where(numbers >= 0, (scores + best) / 2, scores)

    def _rows_of_one(self, doc: int) -> range:
        if not self.has_split_documents:
            return range(doc, doc + 1)
        start, stop = np.searchsorted(self.passages[:, 0], [doc, doc + 1]).tolist()
        return range(start, stop)

    def sentences_of(self, rows: Rows) -> SentenceRows | None:
        """The sentences of some rows, as they are stored."""
        return self.sentences.of(rows) if self.sentences else None

    def is_live(self, document: StoredDocument) -> bool:
        """Whether a document is not deleted."""
        return self.live is None or bool(self.live[document.first_row])

    def rows_of(self, docs: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """A mask (num_rows,) that is True on every passage of the given documents."""
        chosen = np.zeros(self.record.num_documents, bool)
        chosen[docs] = True
        return chosen[self.passages[:, 0]] if self.has_split_documents else chosen


def write_bits(path: Path, mask: npt.NDArray[np.bool_]) -> None:
    """Write a mask as bits."""
    path.write_bytes(np.packbits(mask).tobytes())


def read_bits(path: Path, num_rows: int) -> npt.NDArray[np.bool_]:
    """Read a mask of `num_rows` bits."""
    data = path.read_bytes()
    if len(data) != -(-num_rows // 8):
        raise FolderError(f"{path} does not fit its {num_rows} rows; restore the index")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=num_rows).astype(bool)


def _split(scores: Scores, rows: Sequence[Rows]) -> list[Scores]:
    return np.split(scores, np.cumsum([len(own) for own in rows])[:-1])


def _open_at(path: Path, size_bytes: int) -> BinaryIO:
    file = path.open("r+b" if path.exists() else "w+b")
    if path.stat().st_size < size_bytes:
        file.close()
        raise FolderError(f"{path} is shorter than its checkpoint says; remove the unfinished build and start again")
    file.truncate(size_bytes)
    file.seek(size_bytes)
    return file
