"""The closed-form start of a token table: ridge regression from token counts to the teacher's vectors.

Row i of A holds a text's tokens, each 1 / (number of tokens); solve  min Σ wᵢ ‖Aᵢ X − Eᵢ‖² + λ ‖X − X₀‖²  by conjugate
gradients with a Jacobi preconditioner, all columns of X at once. Rows come in chunks, so the products fit in memory.

Letters: N texts, V tokens of the vocabulary, D width of the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.tokens import TokenStore

_CHUNK_ROWS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseRows:
    """A sparse matrix by rows; a product with it is an embedding bag, torch's quickest way on a CPU and on a GPU."""

    columns: Tensor
    starts: Tensor
    values: Tensor

    def __matmul__(self, dense: Tensor) -> Tensor:
        return functional.embedding_bag(self.columns, dense, self.starts, mode="sum", per_sample_weights=self.values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """A chunk of the system: A as (n, V) and its transpose (V, n), with the rows' root weights inside."""

    counts: SparseRows
    transposed: SparseRows
    root_weight: Tensor


def solve_ridge(
    tokens: TokenStore,
    texts: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
    targets: Callable[[npt.NDArray[np.int64]], Tensor],
    *,
    start: Tensor,
    damping: Tensor,
    iterations: int,
    progress: Progress = no_progress,
    what: str = "ridge solve",
) -> Tensor:
    """Solve for X (V, D), on the device of `start` (V, D), which is both first guess and centre of the penalty.

    `damping` (V,) is each token's λ, `texts` (N,) are text numbers, `weights` (N,) their weights; `targets` maps
    positions 0..N-1 to an (n, D) tensor.
    """
    chunks, diagonal, moments = _assemble(tokens, texts, weights, targets, like=start)
    inverse, penalty = 1.0 / (diagonal + damping)[:, None], damping[:, None]

    def normal(direction: Tensor) -> Tensor:
        product = penalty * direction
        for rows in chunks:
            product += rows.transposed @ (rows.counts @ direction)
        return product

    table = start.clone()
    residual = moments + penalty * start - normal(table)
    scaled = inverse * residual
    direction = scaled.clone()
    energy = (residual * scaled).sum(dim=0)
    for iteration in range(iterations):
        progress(what, iteration, iterations)
        curved = normal(direction)
        step = energy / (direction * curved).sum(dim=0).clamp_min(1e-30)
        table += step * direction
        residual -= step * curved
        scaled = inverse * residual
        previous, energy = energy, (residual * scaled).sum(dim=0)
        direction = scaled + energy / previous.clamp_min(1e-30) * direction
    progress(what, iterations, iterations)
    return table


def token_pull(tokens: TokenStore, texts: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], size: int) -> Tensor:
    """Return how strongly these texts pull at each of `size` tokens: their part of the system's diagonal, (V,)."""
    ids, lengths = tokens.ragged(texts)
    each = np.repeat(weights / np.maximum(lengths, 1) ** 2, lengths)
    return torch.from_numpy(np.bincount(ids, weights=each, minlength=size)).float()


def _assemble(
    tokens: TokenStore,
    texts: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
    targets: Callable[[npt.NDArray[np.int64]], Tensor],
    *,
    like: Tensor,
) -> tuple[Sequence[Rows], Tensor, Tensor]:
    """Return the chunks, the diagonal of AᵀWA (V,), and AᵀWE (V, D)."""
    diagonal, moments = like.new_zeros(len(like)), torch.zeros_like(like)
    chunks = []
    for begin in range(0, len(texts), _CHUNK_ROWS):
        positions = np.arange(begin, min(begin + _CHUNK_ROWS, len(texts)))
        rows = _make_rows(tokens, texts[positions], weights[positions], like=like)
        diagonal.index_add_(0, rows.counts.columns, rows.counts.values.square())
        moments += rows.transposed @ (targets(positions).to(like) * rows.root_weight[:, None])
        chunks.append(rows)
    return chunks, diagonal, moments


def _make_rows(
    tokens: TokenStore, texts: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], *, like: Tensor
) -> Rows:
    from scipy import sparse

    ids, lengths = tokens.ragged(texts)
    root = np.sqrt(weights).astype(np.float32)
    values = np.repeat(root / np.maximum(lengths, 1), lengths).astype(np.float32)
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    counts = sparse.csr_matrix((values, ids, pointers), shape=(len(texts), len(like)))
    counts.sum_duplicates()
    return Rows(
        counts=_to_torch(counts, like.device),
        transposed=_to_torch(counts.T.tocsr(), like.device),
        root_weight=torch.from_numpy(root).to(like.device),
    )


def _to_torch(matrix: Any, device: torch.device) -> SparseRows:
    starts, columns, values = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    return SparseRows(columns=columns.to(device), starts=starts[:-1].to(device), values=values.to(device))
