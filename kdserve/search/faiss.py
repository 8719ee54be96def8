"""The one door to FAISS."""

from __future__ import annotations

import numpy as np

from kdserve.datatypes import Embeddings
from kdserve.errors import MissingExtraError
from kdserve.search.exact import CHUNK_ROWS
from kdserve.search.topk import Mask, Scores
from kdserve.search.vectors import Rows, VectorFile

try:
    import faiss
except ImportError as missing:
    raise MissingExtraError("faiss-cpu", "search") from missing


class FlatSearcher:
    """Exact search with FAISS's brute-force kernels, straight from the memory map: nothing is copied."""

    exact = True

    def __init__(self, vectors: VectorFile) -> None:
        self._vectors = vectors
        self._chunk_rows = vectors.num_rows if vectors.precision == "float32" else CHUNK_ROWS

    def propose(self, queries: Embeddings, count: int, allowed: Mask | None) -> tuple[Scores, Rows]:
        """See `Searcher.propose`."""
        heap = faiss.ResultHeap(len(queries), count, keep_max=True)
        for start in range(0, self._vectors.num_rows, self._chunk_rows):
            stop = min(start + self._chunk_rows, self._vectors.num_rows)
            some = None if allowed is None else allowed[start:stop]
            scores, rows = _knn(queries, self._vectors.slice(start, stop), min(count, stop - start), some)
            rows[rows >= 0] += start
            heap.add_result(scores, rows)
        heap.finalize()
        return np.where(heap.I >= 0, heap.D, -np.inf).astype(np.float32), heap.I


def _knn(queries: Embeddings, vectors: Embeddings, count: int, allowed: Mask | None) -> tuple[Scores, Rows]:
    queries = np.ascontiguousarray(queries)
    scores = np.empty((len(queries), count), np.float32)
    rows = np.empty((len(queries), count), np.int64)
    selector = bits = None
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
    faiss.knn_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(vectors),
        queries.shape[1],
        len(queries),
        len(vectors),
        count,
        faiss.swig_ptr(scores),
        faiss.swig_ptr(rows),
        selector,
    )
    return scores, rows
