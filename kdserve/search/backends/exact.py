"""Exact search with numpy alone: every row is scored."""

from __future__ import annotations

import numpy as np

from kdserve.datatypes import Embeddings
from kdserve.search.backends.topk import Mask, Scores
from kdserve.search.backends.vectors import Rows, VectorFile

CHUNK_ROWS = 65_536
QUERIES_AT_ONCE = 64
"""64 queries against a chunk: a score matrix of 16 MB."""
GATHER_SHARE = 0.2
"""Below this share of allowed rows it is quicker to gather them than to score all."""


class ExactSearcher:
    """Scores all vectors of a segment, chunk by chunk, so that memory does not grow with it."""

    exact = True
    scored = False

    def __init__(self, vectors: VectorFile) -> None:
        self._vectors = vectors

    def propose(self, queries: Embeddings, count: int, allowed: Mask | None) -> tuple[Scores, Rows]:
        """See `Searcher.propose`."""
        scores = np.empty((len(queries), count), np.float32)
        rows = np.empty((len(queries), count), np.int64)
        chosen = None
        if allowed is not None and allowed.mean() < GATHER_SHARE:
            chosen = np.flatnonzero(allowed)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            some = slice(start, start + QUERIES_AT_ONCE)
            scores[some], rows[some] = self._propose(queries[some], count, allowed, chosen)
        return scores, rows

    def _propose(
        self, queries: Embeddings, count: int, allowed: Mask | None, chosen: Rows | None
    ) -> tuple[Scores, Rows]:
        best = np.full((len(queries), count), -np.inf, np.float32)
        best_rows = np.full((len(queries), count), -1, np.int64)
        num_rows = self._vectors.num_rows if chosen is None else len(chosen)
        for start in range(0, num_rows, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, num_rows)
            if chosen is not None:
                rows = chosen[start:stop]
                scores = queries @ self._vectors.gather(rows).T
            else:
                rows = np.arange(start, stop)
                scores = queries @ self._vectors.slice(start, stop).T
                if allowed is not None:
                    scores[:, ~allowed[start:stop]] = -np.inf
            columns = _largest(scores, count)
            both = np.concatenate([best, np.take_along_axis(scores, columns, axis=1)], axis=1)
            both_rows = np.concatenate([best_rows, rows[columns]], axis=1)
            keep = _largest(both, count)
            best = np.take_along_axis(both, keep, axis=1)
            best_rows = np.take_along_axis(both_rows, keep, axis=1)
        order = np.argsort(-best, axis=1, kind="stable")
        best, best_rows = np.take_along_axis(best, order, axis=1), np.take_along_axis(best_rows, order, axis=1)
        return best, np.where(best > -np.inf, best_rows, -1)


def _largest(scores: Scores, count: int) -> Rows:
    """The columns of the `count` largest scores of each row, in no order."""
    if scores.shape[1] <= count:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, scores.shape[1] - count, axis=1)[:, scores.shape[1] - count :]
