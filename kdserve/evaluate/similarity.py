"""Semantic textual similarity: does cosine order sentence pairs as people do?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Embedder
from kdserve.errors import DataError
from kdserve.vectors import checked

_APART = "rows must match, or sets that are no translations lie in folders of their own"


@dataclass(frozen=True, kw_only=True, slots=True)
class StsPair:
    """Two sentences and how alike people found them (0 to 5 in the STS benchmark; only the order counts)."""

    first: str
    second: str
    score: float


def sts_spearman(embedder: Embedder, pairs: Sequence[StsPair]) -> float:
    """Spearman correlation (-1 to 1) between cosine and the human scores.

    Raises:
        DataError: no two pairs with different scores.
    """
    if len({pair.score for pair in pairs}) < 2:
        raise DataError(f"{len(pairs)} sentence pairs have no order; give at least 2 with different scores")
    first = checked(embedder.encode_query([pair.first for pair in pairs]), len(pairs), embedder.dim)
    second = checked(embedder.encode_query([pair.second for pair in pairs]), len(pairs), embedder.dim)
    cosines = np.einsum("nd,nd->n", first, second)
    return spearman(cosines, np.array([pair.score for pair in pairs]))


def cross_lingual(first: Sequence[StsPair], second: Sequence[StsPair]) -> list[StsPair]:
    """Pair sentence 1 of one language with sentence 2 of another, where both list the same pairs row by row.

    Raises:
        DataError: different lengths, or a row whose scores differ.
    """
    if len(first) != len(second):
        raise DataError(f"{len(first)} pairs of one language stand against {len(second)} of the other; {_APART}")
    for row, (one, other) in enumerate(zip(first, second, strict=True), start=1):
        if one.score != other.score:
            raise DataError(f"row {row} is scored {one.score} in one language, {other.score} in the other; {_APART}")
    return [
        StsPair(first=one.first, second=other.second, score=one.score) for one, other in zip(first, second, strict=True)
    ]


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Spearman's rank correlation, ties averaged; 0 where one side is constant, which orders nothing."""
    first_ranks, second_ranks = _ranks(first), _ranks(second)
    first_ranks -= first_ranks.mean()
    second_ranks -= second_ranks.mean()
    scale = float(np.sqrt(np.sum(first_ranks**2) * np.sum(second_ranks**2)))
    return float(np.sum(first_ranks * second_ranks)) / scale if scale else 0.0


def _ranks(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks
