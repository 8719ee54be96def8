"""Vectors on disk: one file of rows, read through a memory map, checked block by block when first touched.

Axes: N rows, D width. float32 keeps a row as D numbers; int8 as one float32 scale and D signed bytes, with
value = scale · byte (symmetric per row, so a quarter of the size). Beside it stands a file with the SHA-256 of every
block of 256 rows: an index of gigabytes opens at once and still never answers from a damaged row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Embeddings
from kdserve.errors import EncodeError, FolderError

Precision = Literal["float32", "int8"]
Rows = npt.NDArray[np.int64]
BLOCK_ROWS = 256
UNIT_TOLERANCE = 1e-3


def row_dtype(precision: Precision, dim: int) -> np.dtype[Any]:
    """The bytes of one row."""
    if precision == "float32":
        return np.dtype([("values", "<f4", (dim,))])
    return np.dtype([("scale", "<f4"), ("values", "i1", (dim,))])


def encode_rows(vectors: Embeddings, precision: Precision) -> npt.NDArray[Any]:
    """Turn (N, D) float32 into N rows of `row_dtype`."""
    rows = np.empty(len(vectors), row_dtype(precision, vectors.shape[1]))
    if precision == "float32":
        rows["values"] = vectors
        return rows
    largest = np.abs(vectors).max(axis=1)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    rows["scale"] = scale
    rows["values"] = np.rint(vectors / scale[:, None])
    return rows


def decode_rows(rows: npt.NDArray[Any]) -> Embeddings:
    """Turn rows of `row_dtype` into (N, D) float32; float32 rows are viewed, not copied."""
    if rows.dtype.names == ("values",):
        values: Embeddings = rows["values"]
        return values
    decoded: Embeddings = rows["values"].astype(np.float32)
    decoded *= rows["scale"][:, None]
    return decoded


def require_unit_rows(vectors: Embeddings, num_texts: int, dim: int) -> Embeddings:
    """Return `vectors` when they are (num_texts, dim), finite and of unit length, or zero (a text without a token).

    Raises:
        EncodeError: any of it is not so.
    """
    if vectors.shape != (num_texts, dim):
        raise EncodeError(f"the encoder gave vectors of shape {vectors.shape} for {num_texts} texts of width {dim}")
    norms = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~((np.abs(norms - 1) <= UNIT_TOLERANCE) | (norms == 0)))  # so that NaN counts as wrong
    if len(wrong):
        raise EncodeError(
            f"the encoder gave a vector of length {norms[wrong[0]]} for text {wrong[0]} of its batch, not 1; "
            "export the bundle again or choose another"
        )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def write_sums(vectors: Path, sums: Path, row_bytes: int) -> None:
    """Write the SHA-256 of every block of `vectors`, 32 bytes each, to `sums`."""
    with vectors.open("rb") as source, sums.open("wb") as target:
        while block := source.read(BLOCK_ROWS * row_bytes):
            target.write(hashlib.sha256(block).digest())


class VectorFile:
    """The vectors of one segment, memory-mapped: opening reads nothing, a damaged block is an error when touched."""

    def __init__(self, vectors: Path, sums: Path, *, precision: Precision, dim: int, num_rows: int) -> None:
        dtype = row_dtype(precision, dim)
        num_blocks = -(-num_rows // BLOCK_ROWS)
        for path, expected in ((vectors, num_rows * dtype.itemsize), (sums, num_blocks * 32)):
            if path.stat().st_size != expected:
                raise FolderError(f"{path} has {path.stat().st_size} bytes instead of {expected}; restore the index")
        self.path, self.precision, self.dim, self.num_rows = vectors, precision, dim, num_rows
        self._rows = np.memmap(vectors, dtype, mode="r", shape=(num_rows,))
        self._sums = sums.read_bytes()
        self._trusted = np.zeros(num_blocks, bool)

    def slice(self, start: int, stop: int) -> Embeddings:
        """Rows start … stop - 1 as (N, D) float32; float32 files give a view of the map."""
        self._trust(range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS)))
        return decode_rows(self._rows[start:stop])

    def gather(self, rows: Rows) -> Embeddings:
        """The given rows, in their order, as (N, D) float32."""
        return decode_rows(self.encoded(rows))

    def map(self, rows: Rows) -> Embeddings:
        """All rows of a float32 file as one view (N, D) of the map, of which the given ones may be read."""
        assert self.precision == "float32"
        self._trust_rows(rows)
        return decode_rows(self._rows)

    def encoded(self, rows: Rows) -> npt.NDArray[Any]:
        """The given rows as they are stored."""
        self._trust_rows(rows)
        return self._rows[rows]

    def _trust_rows(self, rows: Rows) -> None:
        blocks = rows // BLOCK_ROWS
        if not self._trusted[blocks].all():
            self._trust([int(block) for block in np.unique(blocks)])

    def _trust(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            if self._trusted[block]:
                continue
            rows = self._rows[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
            if hashlib.sha256(rows.tobytes()).digest() != self._sums[block * 32 : (block + 1) * 32]:
                first = block * BLOCK_ROWS
                raise FolderError(f"{self.path} is damaged near row {first}; restore the index or build it again")
            if not (np.abs(decode_rows(rows)) <= 1 + UNIT_TOLERANCE).all():  # so that NaN counts as wrong
                raise FolderError(f"{self.path} holds no unit vectors near row {block * BLOCK_ROWS}; build it again")
            self._trusted[block] = True
