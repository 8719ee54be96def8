"""FAISS files, checked before FAISS opens them.

FAISS does as its file says: a file with lists on disk makes it open another one, for writing; a row number or a link
past the end makes it read memory that is not its own. So a file is gone through first, and refused where it is not laid
out exactly as FAISS writes the kinds that kdserve makes (faiss/impl/index_write.cpp, version 1.15).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdserve.search.backends.kinds import GRAPH_LINKS, Kind, num_lists


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Contents that a file must have: kind, the width and number of its vectors, and an empty index of that kind."""

    kind: Kind
    dim: int
    num_rows: int
    empty: Any


def require_layout(data: npt.NDArray[np.uint8], plan: Plan) -> None:
    """Go through a whole file.

    Raises:
        ValueError: what is not as it must be.
    """
    walk = _Walk(data)
    if plan.kind.structure == "graph":
        _graph(walk, plan)
    else:
        _lists(walk, plan)
    walk.require(walk.place == len(walk.data), "it goes on after its end")


class _Walk:
    """A place in a file, and how to step on from it."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        self.data = memoryview(data)  # type: ignore[arg-type]  # numpy says so from Python 3.12 on
        self.place = 0

    def require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise ValueError(f"{otherwise} (byte {self.place})")

    def expect(self, what: str, **values: object) -> None:
        """Step over numbers, of the struct format `what`, that must be these."""
        found = self.take(what)
        for (name, value), number in zip(values.items(), found, strict=True):
            self.require(value is None or number == value, f"{name} is {number!r}, not {value!r}")

    def take(self, what: str) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{what}")
        self.require(self.place + size <= len(self.data), "it ends too early")
        found = struct.unpack_from(f"<{what}", self.data, self.place)
        self.place += size
        return found

    def array(self, kind: str, count: int) -> npt.NDArray[Any]:
        """Step over so many numbers."""
        size = np.dtype(kind).itemsize * count
        self.require(count >= 0 and self.place + size <= len(self.data), "it ends too early")
        found = np.frombuffer(self.data[self.place : self.place + size], kind)
        self.place += size
        return found

    def vector(self, kind: str, count: int | None = None) -> npt.NDArray[Any]:
        """Step over numbers that say how many they are; `count` is how many they must be."""
        (found,) = self.take("Q")
        self.require(count is None or found == count, f"there are {found} numbers, not {count}")
        return self.array(kind, found)


def _header(walk: _Walk, code: bytes, dim: int, num_rows: int) -> None:
    walk.expect("4siqqq?i", code=code, width=dim, rows=num_rows, unused=None, unused_too=None, trained=True, metric=0)


def _scalar_quantizer(walk: _Walk, dim: int, *, quantizer: int, code_bytes: int) -> None:
    walk.expect("iifQQ", quantizer=quantizer, range=0, argument=0.0, width=dim, code_bytes=code_bytes)
    walk.vector("<f4", 2 * dim)


def _graph(walk: _Walk, plan: Plan) -> None:
    num_rows = plan.num_rows
    _header(walk, plan.kind.file_code, plan.dim, num_rows)
    num_layers = len(walk.vector("<f8"))
    ends = walk.vector("<i4", num_layers + 1)
    expected = [0, *(GRAPH_LINKS * layer for layer in range(2, num_layers + 2))]
    walk.require(num_layers > 0 and ends.tolist() == expected, "its layers have other numbers of links")
    layers = walk.vector("<i4", num_rows)
    walk.require(layers.min() >= 1 and layers.max() <= num_layers, "a row is in layers that there are not")
    offsets = walk.vector("<u8", num_rows + 1)
    sizes = ends[layers].astype(np.uint64)
    walk.require(offsets[0] == 0 and bool((offsets[1:] - offsets[:-1] == sizes).all()), "links begin at wrong places")
    links = walk.vector("<i4", int(offsets[-1]))
    walk.require(links.min() >= -1 and links.max() < num_rows, "a link leads past the last row")
    for layer in range(1, int(layers.max())):
        rows = np.flatnonzero(layers > layer)
        places = offsets[rows].astype(np.int64)[:, None] + np.arange(ends[layer], ends[layer + 1])
        linked = links[places]
        walk.require(bool((layers[linked[linked >= 0]] > layer).all()), "a link leads out of its layer")
    entry, top = walk.take("ii")
    walk.require(0 <= entry < num_rows and layers[entry] == top + 1 == layers.max(), "it is entered at a wrong place")
    walk.expect("iii", breadth=None, search_breadth=None, beam=None)
    _header(walk, b"IxSQ", plan.dim, num_rows)
    _scalar_quantizer(walk, plan.dim, quantizer=0, code_bytes=plan.dim)
    walk.vector("u1", num_rows * plan.dim)


def _lists(walk: _Walk, plan: Plan) -> None:
    empty, dim, lists = plan.empty, plan.dim, num_lists(plan.num_rows)
    _header(walk, plan.kind.file_code, dim, plan.num_rows)
    walk.expect("QQ", lists=lists, read=None)
    _header(walk, b"IxFI", dim, lists)
    walk.vector("<f4", lists * dim)
    walk.expect("bQ", map=0, mapped=0)
    code_bytes, by_residual = int(empty.code_size), bool(empty.by_residual)
    if plan.kind.codes == "scalar":
        _scalar_quantizer(walk, dim, quantizer=int(empty.sq.qtype), code_bytes=code_bytes)
        walk.expect("Q?", code_bytes=code_bytes, by_residual=by_residual)
    elif plan.kind.codes == "rabitq":
        bits = int(empty.rabitq.nb_bits)
        walk.expect("QQiQ", width=dim, code_bytes=code_bytes, metric=0, bits=bits)
        walk.expect("Q?B", code_bytes=code_bytes, by_residual=by_residual, query_bits=int(empty.qb))
    else:
        walk.expect("?QiQ", by_residual=by_residual, code_bytes=code_bytes, block=int(empty.bbs), padded=int(empty.M2))
        walk.expect("iQ", implementation=int(empty.implem), batch=int(empty.qbs2))
        walk.expect("QQQ", width=dim, parts=int(empty.pq.M), bits=int(empty.pq.nbits))
        walk.vector("<f4", dim * int(empty.pq.ksub))
        _blocks(walk, plan, lists)
        return
    _arrays(walk, plan, lists, code_bytes)


def _arrays(walk: _Walk, plan: Plan, lists: int, code_bytes: int) -> None:
    """Lists of codes, each followed by its row numbers."""
    walk.expect("4sQQ", code=b"ilar", lists=lists, code_bytes=code_bytes)
    (how,) = walk.take("4s")
    walk.require(how in (b"full", b"sprs"), f"its lists are {how!r}")
    sizes = walk.vector("<u8", lists if how == b"full" else None)
    if how == b"sprs":
        walk.require(len(sizes) % 2 == 0 and len(sizes) <= 2 * lists, "it has too many lists")
        numbers, sizes = sizes[::2], sizes[1::2]
        walk.require(
            bool((numbers[:-1] < numbers[1:]).all() and (numbers < lists).all()), "its lists are no such lists"
        )
    rows = _Rows(walk, plan.num_rows)
    for size in sizes.tolist():
        walk.array("u1", size * code_bytes)
        rows.add(walk.array("<i8", size))
    rows.require_all()


def _blocks(walk: _Walk, plan: Plan, lists: int) -> None:
    """Lists of row numbers, each followed by its codes, which are interleaved in blocks of 32 rows."""
    empty = plan.empty
    block_rows, block_bytes = int(empty.bbs), int(empty.bbs) * int(empty.M2) // 2
    walk.expect("4sQQQQ", code=b"ilbl", lists=lists, code_bytes=None, block_rows=block_rows, block_bytes=block_bytes)
    rows = _Rows(walk, plan.num_rows)
    for _ in range(lists):
        ids = walk.vector("<i8")
        rows.add(ids)
        walk.vector("u1", -(-len(ids) // block_rows) * block_bytes)
    rows.require_all()


class _Rows:
    """The row numbers of all lists, of which each must come once."""

    def __init__(self, walk: _Walk, num_rows: int) -> None:
        self._walk, self._seen = walk, np.zeros(num_rows, bool)

    def add(self, rows: npt.NDArray[np.int64]) -> None:
        if len(rows):
            inside = rows.min() >= 0 and rows.max() < len(self._seen)
            self._walk.require(bool(inside), "a row number leads past the last row")
            self._walk.require(not self._seen[rows].any(), "a row is there twice")
            self._seen[rows] = True

    def require_all(self) -> None:
        self._walk.require(bool(self._seen.all()), "rows are missing")
