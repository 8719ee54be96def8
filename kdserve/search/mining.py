"""Find translations between two texts: ratio margin over the nearest neighbours.

A pair's score is its cosine divided by the mean cosine of both sides to their k nearest neighbours on the other side,
so that a sentence that is near everything is near nothing (Artetxe & Schwenk 2019, arXiv:1811.01136, ratio margin with
"max" retrieval). Each sentence is used once, the best pairs first.

Texts and vectors wait on disk, beside each other in a temporary folder; memory holds a few numbers a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdserve.datatypes import Embedder, Embeddings, Progress, no_progress
from kdserve.errors import DataError
from kdserve.runtime.normalizer import is_blank
from kdserve.search.backends.kinds import KINDS, num_lists
from kdserve.search.backends.topk import Scores, SearchedSegment, Searcher, nearest
from kdserve.search.backends.vectors import Rows, VectorFile, encode_rows, require_unit_rows, row_dtype, write_sums
from kdserve.search.documents.chunks import chunks
from kdserve.temporary import into, temporary_folder

EMBEDDED_AT_ONCE = 2048
QUERIES_AT_ONCE = 1024
EXACT_ROWS = 200_000
"""Larger sides are searched through an ivf-sq8 index that reads a thirty-second of its lists."""
READ_SHARE = 32
MOST_NEIGHBOURS = 1024
"""Margins over more would need memory of the square of the sentences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MinedPair:
    """Two sentences that are likely translations; the score is their margin: 1 is chance, higher is better."""

    score: float
    source: str
    target: str


def mine(
    sources: Iterable[str],
    targets: Iterable[str],
    encoder: Embedder,
    *,
    k: int = 4,
    min_score: float = 1.06,
    progress: Progress = no_progress,
) -> Iterator[MinedPair]:
    """Find translation pairs, best first. Blank lines and repeated sentences are skipped.

    Raises:
        TypeError: a side is a bare str, or holds what is no str.
        DataError: a side without sentences, or a `k` below 1 or beyond 1,024 on sides that have so many, or a
            `min_score` that is NaN.
        FolderError: the temporary folder cannot be written, as its disk is full.
    """
    if k < 1:
        raise DataError(f"k is {k}; margins need 1 neighbour or more")
    if math.isnan(min_score):
        raise DataError("min_score is NaN, which no margin reaches; give a number")
    if isinstance(sources, str) or isinstance(targets, str):
        raise TypeError("expected two sequences of sentences, got a str; put it into a list")
    with temporary_folder("mine") as folder, ExitStack() as files:
        a = files.enter_context(closing(_Side(folder, "sources", sources, encoder, progress)))
        b = files.enter_context(closing(_Side(folder, "targets", targets, encoder, progress)))
        scores, rows_a, rows_b = _margins(a, b, k, progress)
        used_a, used_b = np.zeros(a.num_rows, bool), np.zeros(b.num_rows, bool)
        for place in np.argsort(-scores, kind="stable"):
            row_a, row_b, score = int(rows_a[place]), int(rows_b[place]), float(scores[place])
            if score < min_score:
                break
            if not used_a[row_a] and not used_b[row_b]:
                used_a[row_a] = used_b[row_b] = True
                yield MinedPair(score=score, source=a.text(row_a), target=b.text(row_b))


def _margins(a: _Side, b: _Side, k: int, progress: Progress) -> tuple[Scores, Rows, Rows]:
    """The best pair of every sentence of both sides: margins, rows of `a`, rows of `b`."""
    forward, forward_rows = _neighbours(a, b, k, "search targets", progress)
    backward, backward_rows = _neighbours(b, a, k, "search sources", progress)
    mean_a, mean_b = forward.mean(axis=1), backward.mean(axis=1)
    margins_a = forward / _denominator(mean_a[:, None], mean_b[forward_rows])
    margins_b = backward / _denominator(mean_b[:, None], mean_a[backward_rows])
    best_a, best_b = margins_a.argmax(axis=1), margins_b.argmax(axis=1)
    every_a, every_b = np.arange(a.num_rows), np.arange(b.num_rows)
    scores = np.concatenate([margins_a[every_a, best_a], margins_b[every_b, best_b]])
    rows_a = np.concatenate([every_a, backward_rows[every_b, best_b]])
    rows_b = np.concatenate([forward_rows[every_a, best_a], every_b])
    return scores, rows_a, rows_b


class _Side:
    """The different sentences of one side and their vectors, on disk."""

    def __init__(self, folder: Path, name: str, texts: Iterable[str], encoder: Embedder, progress: Progress) -> None:
        self.folder, self.name = folder, name
        vectors, sums, lines = (folder / f"{name}.{what}" for what in ("vectors", "sums", "texts"))
        ends = [0]
        for chunk in chunks(_different(texts), EMBEDDED_AT_ONCE):
            embedded = encode_rows(_embed(chunk, encoder), "float32").tobytes()
            with into(folder), vectors.open("ab") as vector_file, lines.open("ab") as line_file:
                vector_file.write(embedded)
                for text in chunk:
                    ends.append(ends[-1] + line_file.write(text.encode()))
            progress(f"embed {name}", len(ends) - 1, 0)
        self.num_rows = len(ends) - 1
        if not self.num_rows:
            raise DataError(f"the {name} have no sentences; give both sides some")
        self._texts = lines.open("rb")
        self._ends = np.array(ends, np.int64)
        with into(folder):
            write_sums(vectors, sums, row_dtype("float32", encoder.dim).itemsize)
        self.vectors = VectorFile(vectors, sums, precision="float32", dim=encoder.dim, num_rows=self.num_rows)

    def close(self) -> None:
        self._texts.close()

    def text(self, row: int) -> str:
        self._texts.seek(self._ends[row])
        return self._texts.read(int(self._ends[row + 1] - self._ends[row])).decode()


def _different(texts: Iterable[str]) -> Iterator[str]:
    """Texts on one line each, without blank and repeated ones."""
    seen: set[int] = set()
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"a sentence is {type(text).__name__}, not str")
        text = " ".join(text.split())
        if not is_blank(text) and hash(text) not in seen:
            seen.add(hash(text))
            yield text


def _embed(texts: list[str], encoder: Embedder) -> Embeddings:
    return require_unit_rows(encoder.encode_document(texts), len(texts), encoder.dim)


def _neighbours(side: _Side, other: _Side, k: int, what: str, progress: Progress) -> tuple[Scores, Rows]:
    """Scores and rows (N, k) of the nearest sentences of the other side."""
    count = min(k, other.num_rows)
    if count > MOST_NEIGHBOURS:
        raise DataError(f"k is {k}; margins look at {MOST_NEIGHBOURS} neighbours at most, the default is 4")
    scores = np.empty((side.num_rows, count), np.float32)
    rows = np.empty((side.num_rows, count), np.int64)
    source = SearchedSegment(
        searcher=_searcher(other, progress),
        vectors=other.vectors,
        first_row=0,
        num_rows=other.num_rows,
        allowed=None,
        owners=None,
    )
    for start in range(0, side.num_rows, QUERIES_AT_ONCE):
        stop = min(start + QUERIES_AT_ONCE, side.num_rows)
        found = nearest(side.vectors.slice(start, stop), [source], count)
        scores[start:stop], rows[start:stop] = found.scores, found.rows
        progress(what, stop, side.num_rows)
    return scores, rows


def _searcher(side: _Side, progress: Progress) -> Searcher:
    from kdserve.search.backends.faiss import ApproximateSearcher, FlatSearcher, write_approximate

    if side.num_rows <= EXACT_ROWS:
        return FlatSearcher(side.vectors)
    path = side.folder / f"{side.name}.faiss"
    with into(side.folder):
        write_approximate(path, side.vectors, KINDS["ivf-sq8"], progress=progress)
    effort = max(1, num_lists(side.num_rows) // READ_SHARE)
    return ApproximateSearcher(path, side.vectors, kind=KINDS["ivf-sq8"], effort=effort, candidates=2)


def _denominator(mean: Scores, means: Scores) -> Scores:
    """Half the sum of both means, kept from zero: a pair that is far from everything is no find."""
    return np.maximum((mean + means) / 2, 1e-3)
