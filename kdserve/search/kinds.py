"""The kinds of index: what each is good for, and how its effort is set.

exact    numpy scores every vector: no FAISS needed, right by definition, fast enough for some ten thousand documents
flat     the same with FAISS's kernels: up to a few hundred thousand documents
ivf-pq   lists of vectors of 1 bit a dimension around centroids (product quantisation, 4-bit fast scan): a twentieth
         of the memory of float32, and with rescoring the quickest too
hnsw     a graph over 8-bit vectors (Malkov & Yashunin, 2016): quick, and the largest in memory
ivf-sq8  lists of 8-bit vectors: a quarter of the memory, reads the fewest stored vectors
rabitq   lists of 4 bits a dimension (Gao & Long, 2024): a seventh of the memory

The last four propose rows from compressed vectors; the answer is scored again from the stored ones, which stay on disk
in a memory map. `effort` is what trades time for recall: the width of the graph search (hnsw), or the number of lists
that are read (the others). `candidates` is how many rows are proposed for each one asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IndexKind = Literal["exact", "flat", "hnsw", "ivf-sq8", "rabitq", "ivf-pq"]
APPROXIMATE: tuple[IndexKind, ...] = ("ivf-pq", "hnsw", "ivf-sq8", "rabitq")
"""From the quickest to the slowest at a recall of 0.97, as benchmarks/search.py found them."""
EXACT_ROWS = 10_000
FLAT_ROWS = 100_000
"""Up to so many rows an index of unnamed kind is exact, then flat, then approximate."""
GRAPH_LINKS = 32
ID_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a user asks of an index: a kind or "auto", a recall to reach (0: 0.95), a memory to stay in (0: any)."""

    kind: IndexKind | Literal["auto"] = "auto"
    recall: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How an approximate index searches, and what that was measured to give on its own vectors.

    `recall` is the share of the 10 nearest rows that are found, over `num_queries` made from the stored vectors, ties
    counted as found; `queries_per_s` is over one batch of them; `memory_bytes` is the size of the FAISS file.
    """

    effort: int
    candidates: int
    recall: float
    queries_per_s: float
    memory_bytes: int
    num_queries: int


def efforts(kind: IndexKind, num_rows: int) -> list[int]:
    """The efforts to try, from quick to thorough."""
    if kind == "hnsw":
        return [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    most = num_lists(num_rows)
    return [
        effort
        for effort in (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
        if effort < most
    ] + [most]


def candidate_factors(kind: IndexKind) -> list[int]:
    """How many rows to propose for each one asked for, from quick to thorough: more where vectors are coarser."""
    return {"hnsw": [1, 2], "ivf-sq8": [1, 2], "rabitq": [2, 4, 8], "ivf-pq": [4, 8, 16, 32, 64]}[kind]


def num_lists(num_rows: int) -> int:
    """Lists of an inverted file: about four times the root of the rows, but at least 39 rows each to train on."""
    lists = 1
    while lists * lists < 8 * num_rows and lists * 2 * 39 <= num_rows:
        lists *= 2
    return lists


def factory(kind: IndexKind, dim: int, num_rows: int) -> str:
    """What FAISS's index factory calls this kind."""
    lists = f"IVF{num_lists(num_rows)}"
    return {
        "hnsw": f"HNSW{GRAPH_LINKS},SQ8",
        "ivf-sq8": f"{lists},SQ8",
        "rabitq": f"{lists},RaBitQ4",
        "ivf-pq": f"{lists},PQ{_subvectors(dim)}x4fs",
    }[kind]


def estimated_bytes(kind: IndexKind, dim: int, num_rows: int) -> int:
    """About the size of the FAISS file; of the vectors themselves for exact and flat."""
    per_row = {
        "exact": 4 * dim,
        "flat": 4 * dim,
        "hnsw": dim + 8 * GRAPH_LINKS + 16,
        "ivf-sq8": dim + ID_BYTES,
        "rabitq": dim // 2 + 20 + ID_BYTES,
        "ivf-pq": _subvectors(dim) // 2 + ID_BYTES,
    }[kind]
    centroids = 0 if kind in ("exact", "flat", "hnsw") else num_lists(num_rows) * dim * 4
    return num_rows * per_row + centroids


def _subvectors(dim: int) -> int:
    """The number of sub-vectors, of four dimensions each where the width allows it."""
    return next(dim // width for width in (4, 3, 2, 1) if dim % width == 0)
