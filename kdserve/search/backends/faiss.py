"""The one door to FAISS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdserve.datatypes import Embeddings, Progress
from kdserve.errors import FolderError, MissingExtraError
from kdserve.search.backends.exact import CHUNK_ROWS, ExactSearcher
from kdserve.search.backends.faiss_file import Plan, require_layout
from kdserve.search.backends.kinds import Kind, num_lists
from kdserve.search.backends.topk import Mask, Scores
from kdserve.search.backends.vectors import Rows, VectorFile

try:
    import faiss
except ImportError as missing:
    raise MissingExtraError("faiss-cpu", "search") from missing

GRAPH_BREADTH = 100
"""Breadth of the search that places a vector in the graph (efConstruction)."""
TRAIN_ROWS_PER_LIST = 64
MAPPED_BYTES = 128_000_000
"""Larger files are mapped; smaller ones are read, as lists in private memory are searched 7 % faster."""


class FlatSearcher:
    """Exact search with FAISS's brute-force kernels, straight from the memory map: nothing is copied."""

    exact = True
    scored = False

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


class ApproximateSearcher:
    """Proposes rows from a compressed FAISS index, mapped where it is large, scored by the stored vectors."""

    exact = False

    def __init__(self, path: Path, vectors: VectorFile, *, kind: Kind, effort: int, candidates: int) -> None:
        self.effort, self.candidates = effort, candidates
        self.scored = vectors.precision == "float32"
        self._kind, self._vectors = kind, vectors
        self._index = _read(path, vectors, kind)

    def propose(self, queries: Embeddings, count: int, allowed: Mask | None) -> tuple[Scores, Rows]:
        """See `Searcher.propose`. What compressed search leaves empty is filled by exact search."""
        width = min(count * self.candidates, self._vectors.num_rows)
        selector = None if allowed is None else _Selector(allowed)
        queries = np.ascontiguousarray(queries)
        scores, rows = self._index.search(queries, width, params=self._parameters(width, selector))
        num_allowed = self._vectors.num_rows if allowed is None else int(allowed.sum())
        starved = np.flatnonzero((rows >= 0).sum(axis=1) < min(count, num_allowed))
        if len(starved):
            rows[starved] = -1
            filled = ExactSearcher(self._vectors).propose(queries[starved], min(count, num_allowed), allowed)
            scores[starved, : filled[0].shape[1]], rows[starved, : filled[1].shape[1]] = filled
        if self.scored:
            scores = _scores_of(queries, self._vectors, rows)
        return np.where(rows >= 0, scores, -np.inf).astype(np.float32), rows

    def _parameters(self, width: int, selector: _Selector | None) -> Any:
        chosen = selector.selector if selector else None
        if self._kind.structure == "graph":
            return faiss.SearchParametersHNSW(sel=chosen, efSearch=max(self.effort, width))
        return faiss.SearchParametersIVF(sel=chosen, nprobe=self.effort)


def write_approximate(path: Path, vectors: VectorFile, kind: Kind, *, seed: int = 0, progress: Progress) -> None:
    """Train a compressed index on some of the vectors, add all, and write it. It holds one index in memory."""
    index = _empty(vectors, kind)
    if kind.structure == "graph":
        index.hnsw.efConstruction = GRAPH_BREADTH
    if kind.codes == "product":
        index.pq.cp.min_points_per_centroid = 1  # else FAISS prints a warning over small data
    num_train = min(vectors.num_rows, max(16_384, TRAIN_ROWS_PER_LIST * num_lists(vectors.num_rows)))
    sample = np.random.default_rng(seed).choice(vectors.num_rows, num_train, replace=False)
    progress(f"train {kind.name}", 0, 1)
    index.train(vectors.gather(np.sort(sample)))
    progress(f"train {kind.name}", 1, 1)
    for start in range(0, vectors.num_rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, vectors.num_rows)
        index.add(np.ascontiguousarray(vectors.slice(start, stop)))
        progress(f"make {kind.name}", stop, vectors.num_rows)
    with path.open("wb") as file:
        _write(index, file.write)


def _empty(vectors: VectorFile, kind: Kind) -> Any:
    name = kind.factory_string(vectors.dim, vectors.num_rows)
    return faiss.index_factory(vectors.dim, name, faiss.METRIC_INNER_PRODUCT)


def _write(index: Any, write: Callable[[bytes], int]) -> None:
    """Write through Python, so that a full disk is the OSError that it is and not a short file."""
    failed: list[OSError] = []

    def written(block: bytes) -> None:
        try:
            write(block)
        except OSError as error:
            failed.append(error)
            raise

    try:
        faiss.write_index(index, faiss.PyCallbackIOWriter(written, 1 << 20))
    except RuntimeError:
        if failed:
            raise failed[0] from None
        raise


def _read(path: Path, vectors: VectorFile, kind: Kind) -> Any:
    """Read an index that is laid out as one of this kind over these vectors."""
    plan = Plan(kind=kind, dim=vectors.dim, num_rows=vectors.num_rows, empty=_empty(vectors, kind))
    try:
        data = np.memmap(path, np.uint8, mode="r")
        require_layout(data, plan)
        if len(data) <= MAPPED_BYTES:
            return faiss.deserialize_index(data)
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (ValueError, RuntimeError) as error:
        reason = str(error).rsplit("Error: ", 1)[-1]
        raise FolderError(f"{path} is no {kind.name} index of kdserve ({reason}); compact the index") from error


def _scores_of(queries: Embeddings, vectors: VectorFile, rows: Rows) -> Scores:
    """The inner products (B, K) of queries with stored vectors, in float32, on all threads and without a copy."""
    stored = vectors.map(rows[rows >= 0])
    scores = np.empty(rows.shape, np.float32)
    faiss.fvec_inner_products_by_idx(
        faiss.swig_ptr(scores),
        faiss.swig_ptr(queries),
        faiss.swig_ptr(stored),
        faiss.swig_ptr(np.ascontiguousarray(rows)),
        vectors.dim,
        *rows.shape,
    )
    return scores


class _Selector:
    """A FAISS selector with the bits that it reads."""

    def __init__(self, allowed: Mask) -> None:
        self._bits = np.packbits(allowed, bitorder="little")
        self.selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(self._bits))


def _knn(queries: Embeddings, vectors: Embeddings, count: int, allowed: Mask | None) -> tuple[Scores, Rows]:
    queries = np.ascontiguousarray(queries)
    scores = np.empty((len(queries), count), np.float32)
    rows = np.empty((len(queries), count), np.int64)
    selector = None if allowed is None else _Selector(allowed)
    faiss.knn_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(vectors),
        queries.shape[1],
        len(queries),
        len(vectors),
        count,
        faiss.swig_ptr(scores),
        faiss.swig_ptr(rows),
        selector.selector if selector else None,
    )
    return scores, rows
