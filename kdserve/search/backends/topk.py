"""The k best rows of each query, the same from every exact backend.

A backend proposes rows by scores of its own, fast and rounded as its kernels round. Here every row that an exact one
proposes is scored again by one function, ordered by score and then by row, and the proposal is widened until no row
outside it can belong to the answer. So exact backends agree on ids and scores, bit for bit, and equal texts come in the
order of insertion.

Axes: B queries, K proposed rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Embeddings
from kdserve.search.backends.vectors import Rows

Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
_FLOAT32 = np.finfo(np.float32)
SLACK = 8
"""Rows that exact searchers are asked for beyond k, so that most answers are settled at once."""
PROPOSED_AT_ONCE = 4_000_000
"""Proposals that are held at once, over all queries: 48 MB."""
GATHER_ROWS = 16_384
"""Rows that are scored at once: 25 MB at 384 dimensions."""


class Searcher(Protocol):
    """Proposes rows of one segment by scores that may be rounded, or estimates."""

    exact: bool
    """Whether every row that is not proposed scores at most the lowest proposed score, but for rounding."""
    scored: bool
    """Whether the proposed scores are those of the stored vectors, but for rounding, and need not be computed again."""

    def propose(self, queries: Embeddings, count: int, allowed: Mask | None) -> tuple[Scores, Rows]:
        """Return (B, K) scores and rows with K ≥ `count`; row -1 (score -inf) where there is none.

        `allowed` is None or a mask over the rows. At least as many rows come back as are allowed, up to `count`. An
        exact searcher gives K = `count`, best first.
        """


class Vectors(Protocol):
    """Vectors from which the scores of an answer are computed."""

    def gather(self, rows: Rows) -> Embeddings:
        """The given rows, in their order, as (N, D) float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchedSegment:
    """One segment in a search. Its rows are numbered from `first_row` on in the answer.

    `owners` gives the document of each row where documents have several; then only the best row of each counts.
    """

    searcher: Searcher
    vectors: Vectors
    first_row: int
    num_rows: int
    allowed: Mask | None
    owners: npt.NDArray[np.int32] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """The answer: (B, K) scores and rows, K at most k, best first, row -1 and score -inf where there are fewer."""

    scores: Scores
    rows: Rows


def nearest(queries: Embeddings, sources: list[SearchedSegment], k: int, *, min_score: float = -np.inf) -> Neighbours:
    """The `k` best rows of each query over all sources, one row a document, ordered by score and then by row.

    There are as many columns as rows if those are fewer than `k`.
    """
    num_rows = sum(source.num_rows for source in sources)
    k = min(k, num_rows)
    min_score = float(np.clip(min_score, _FLOAT32.min, _FLOAT32.max))  # beyond, numpy warns of an overflow
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    pending = np.arange(len(queries))
    count = k
    while len(pending) and sources:
        step = max(1, PROPOSED_AT_ONCE // (count + SLACK))
        unsettled = [np.empty(0, np.int64)]
        for start in range(0, len(pending), step):
            some = pending[start : start + step]
            some_scores, some_rows, beyond = _scored(queries[some], sources, count, k)
            scores[some], rows[some] = some_scores, some_rows
            settled = (some_scores[:, -1] > beyond) | (beyond < min_score) | (beyond == -np.inf)
            unsettled.append(some[~settled])
        pending = np.concatenate(unsettled)
        count = min(count * 4, num_rows)
    rows[scores < min_score] = -1
    scores[scores < min_score] = -np.inf
    return Neighbours(scores=scores, rows=rows)


def true_scores(queries: Embeddings, vectors: Vectors, rows: Rows) -> Scores:
    """Inner products (B, K) of each query with its rows (B, K), -inf where a row is -1.

    Summed in float64 and rounded once, so that they do not depend on a kernel's order of summation.
    """
    scores = np.empty(rows.shape, np.float32)
    step = max(1, GATHER_ROWS // rows.shape[1])
    for start in range(0, len(rows), step):
        asked = queries[start : start + step]
        for first in range(0, rows.shape[1], GATHER_ROWS):
            place = slice(start, start + step), slice(first, first + GATHER_ROWS)
            gathered = vectors.gather(np.maximum(rows[place], 0).ravel()).reshape(*rows[place].shape, -1)
            scores[place] = np.einsum("bkd,bd->bk", gathered, asked, dtype=np.float64)
    scores[rows < 0] = -np.inf
    return scores


def _scored(queries: Embeddings, sources: list[SearchedSegment], count: int, k: int) -> tuple[Scores, Rows, Scores]:
    """The k best of what the sources propose, and the score (B,) that a row beyond the proposals may still have."""
    beyond = np.full(len(queries), -np.inf, np.float32)
    slack = queries.shape[1] * np.float32(2.0**-23)  # twice the bound on the rounding of a float32 inner product
    parts = []
    for source in sources:
        wanted = min(count + SLACK * source.searcher.exact, source.num_rows)
        proposed, rows = source.searcher.propose(queries, wanted, source.allowed)
        if wanted < source.num_rows:
            more = rows[:, -1] >= 0
            if not source.searcher.exact:  # an estimate bounds nothing: go on only for want of documents
                more &= _num_documents(rows, source.owners) < k
            beyond = np.maximum(beyond, np.where(more, proposed[:, -1] + slack, -np.inf)).astype(np.float32)
        scores = proposed if source.searcher.scored else true_scores(queries, source.vectors, rows)
        parts.append((scores, rows, source))
    scores = np.concatenate([part for part, _, _ in parts], axis=1)
    rows = np.concatenate([np.where(part >= 0, part + s.first_row, -1) for _, part, s in parts], axis=1)
    if any(source.owners is not None for source in sources):
        scores, rows = _ordered(scores, rows)
        repeated = _repeated(rows, sources)
        scores, rows = np.where(repeated, -np.inf, scores), np.where(repeated, -1, rows)
    scores, rows = _ordered(*_best(scores, rows, k))
    missing = max(0, k - scores.shape[1])
    scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)[:, :k]
    return scores, np.pad(rows, ((0, 0), (0, missing)), constant_values=-1)[:, :k], beyond


def _best(scores: Scores, rows: Rows, k: int) -> tuple[Scores, Rows]:
    """Leave the `k` best of each query, all that tie with the last of them, and what fills the columns; in no order."""
    if scores.shape[1] <= k:
        return scores, rows
    kept = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    least = np.take_along_axis(scores, kept, axis=1).min(axis=1, keepdims=True)
    width = int((scores >= least).sum(axis=1).max())
    if width > k:
        kept = np.argpartition(-scores, width - 1, axis=1)[:, :width]
    return np.take_along_axis(scores, kept, axis=1), np.take_along_axis(rows, kept, axis=1)


def _ordered(scores: Scores, rows: Rows) -> tuple[Scores, Rows]:
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _repeated(rows: Rows, sources: list[SearchedSegment]) -> Mask:
    """Mark every row whose document has a better row further left."""
    owners = np.full(rows.shape, -1, np.int64)
    for source in sources:
        inside = (rows >= source.first_row) & (rows < source.first_row + source.num_rows)
        local = rows[inside] - source.first_row
        owners[inside] = source.first_row + (local if source.owners is None else source.owners[local])
    repeated = np.zeros(rows.shape, bool)
    for query, owned in enumerate(owners):
        first = np.zeros(len(owned), bool)
        first[np.unique(owned, return_index=True)[1]] = True
        repeated[query] = ~first & (owned >= 0)
    return repeated


def _num_documents(rows: Rows, owners: npt.NDArray[np.int32] | None) -> npt.NDArray[np.int64]:
    if owners is None:
        return np.asarray((rows >= 0).sum(axis=1), np.int64)
    return np.array([len(np.unique(owners[found[found >= 0]])) for found in rows], np.int64)
