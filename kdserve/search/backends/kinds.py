"""The kinds of index: what each is good for, what it takes, and how its effort is set. To add a kind, add it here.

The approximate kinds propose rows from compressed vectors; the answer is scored again from the stored ones, which stay
on disk in a memory map. `effort` is what trades time for recall: the width of the search in a graph, or the number of
lists that are read. `candidates` is how many rows are proposed for each one asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kdserve.errors import DataError

IndexKind = Literal["exact", "flat", "ivf-pq", "hnsw", "ivf-sq8", "rabitq"]
KindOrAuto = Literal["auto", IndexKind]
EXACT_ROWS = 10_000
FLAT_ROWS = 100_000
"""Up to so many rows an index of unnamed kind is exact, then flat, then approximate."""
GRAPH_LINKS = 32
ID_BYTES = 8
EFFORTS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of index.

    `structure` is how rows are found: by scoring each, in numpy or in FAISS, through a graph, or in lists around
    centroids. An approximate kind has `codes`, as which its vectors are compressed, a `factory` string for FAISS in
    which the number of {lists} and {subvectors} is filled in, and the `file_code` that its FAISS file begins with.
    `row_bytes` is what a row takes at a width. `candidates` are the factors to try, from quick to thorough: more where
    vectors are coarser.
    """

    name: IndexKind
    summary: str
    structure: Literal["numpy", "faiss", "graph", "lists"]
    row_bytes: Callable[[int], int]
    codes: Literal["", "scalar", "rabitq", "product"] = ""
    factory: str = ""
    file_code: bytes = b""
    candidates: tuple[int, ...] = ()

    @property
    def approximate(self) -> bool:
        """Whether rows are proposed from compressed vectors."""
        return self.codes != ""

    def efforts(self, num_rows: int) -> list[int]:
        """The efforts to try, from quick to thorough."""
        if self.structure == "graph":
            return [effort for effort in EFFORTS if effort >= 16]
        most = num_lists(num_rows)
        return [effort for effort in EFFORTS if effort < most] + [most]

    def factory_string(self, dim: int, num_rows: int) -> str:
        """Name of this kind over so many rows in FAISS's index factory."""
        return self.factory.format(lists=num_lists(num_rows), subvectors=_subvectors(dim))

    def estimated_bytes(self, dim: int, num_rows: int) -> int:
        """About the size of the FAISS file; of the vectors themselves for a kind that scores each."""
        centroids = num_lists(num_rows) * dim * 4 if self.structure == "lists" else 0
        return num_rows * self.row_bytes(dim) + centroids


def num_lists(num_rows: int) -> int:
    """Lists of an inverted file: about four times the root of the rows, but at least 39 rows each to train on."""
    lists = 1
    while lists * lists < 8 * num_rows and lists * 2 * 39 <= num_rows:
        lists *= 2
    return lists


def _subvectors(dim: int) -> int:
    """The number of sub-vectors, of four dimensions each where the width allows it."""
    return next(dim // width for width in (4, 3, 2, 1) if dim % width == 0)


_ALL = (
    Kind(  # needs no FAISS, is right by definition, and fast enough for some ten thousand documents
        name="exact",
        summary="numpy scores each vector",
        structure="numpy",
        row_bytes=lambda dim: 4 * dim,
    ),
    Kind(  # up to a few hundred thousand documents
        name="flat",
        summary="FAISS scores each vector",
        structure="faiss",
        row_bytes=lambda dim: 4 * dim,
    ),
    Kind(  # product quantisation, 4-bit fast scan: a twentieth of the memory of float32, and the quickest too
        name="ivf-pq",
        summary="lists of vectors of 1 bit a dimension",
        structure="lists",
        row_bytes=lambda dim: _subvectors(dim) // 2 + ID_BYTES,
        codes="product",
        factory="IVF{lists},PQ{subvectors}x4fs",
        file_code=b"IwPf",
        candidates=(4, 8, 16, 32, 64),
    ),
    Kind(  # Malkov & Yashunin, 2016: quick, and the largest in memory
        name="hnsw",
        summary="a graph over 8-bit vectors",
        structure="graph",
        row_bytes=lambda dim: dim + 8 * GRAPH_LINKS + 16,
        codes="scalar",
        factory=f"HNSW{GRAPH_LINKS},SQ8",
        file_code=b"IHNs",
        candidates=(1, 2),
    ),
    Kind(  # a quarter of the memory, reads the fewest stored vectors
        name="ivf-sq8",
        summary="lists of 8-bit vectors",
        structure="lists",
        row_bytes=lambda dim: dim + ID_BYTES,
        codes="scalar",
        factory="IVF{lists},SQ8",
        file_code=b"IwSq",
        candidates=(1, 2),
    ),
    Kind(  # Gao & Long, 2024: a seventh of the memory
        name="rabitq",
        summary="lists of vectors of 4 bits a dimension",
        structure="lists",
        row_bytes=lambda dim: dim // 2 + 20 + ID_BYTES,
        codes="rabitq",
        factory="IVF{lists},RaBitQ4",
        file_code=b"Iwrr",
        candidates=(2, 4, 8),
    ),
)
KINDS: dict[IndexKind, Kind] = {kind.name: kind for kind in _ALL}
"""The approximate ones from the quickest to the slowest at a recall of 0.97, as benchmarks/search.py found them."""
APPROXIMATE = tuple(kind for kind in _ALL if kind.approximate)
KINDS_HELP = "; ".join(f"{kind.name}: {kind.summary}" for kind in _ALL)
"""One line for the command line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """Requirements of an index: a kind or "auto", a recall to reach (0: 0.95), a memory to stay in (0: any)."""

    kind: KindOrAuto = "auto"
    recall: float = 0.0
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        if self.kind != "auto" and self.kind not in KINDS:
            raise DataError(f"there is no kind of index {self.kind!r}; choose one of auto, {', '.join(KINDS)}")
        if not 0 <= self.recall <= 1 or self.memory_bytes < 0:
            wanted = f"a recall of {self.recall} in {self.memory_bytes} bytes"
            raise DataError(f"{wanted} cannot be; a recall lies between 0 and 1, memory is 0 bytes (any) or more")


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
