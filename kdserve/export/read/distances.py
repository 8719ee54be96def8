"""Attention biases by the distance of two tokens, spread out: one bias a distance.

R reach of a bias
"""

from __future__ import annotations

import numpy as np

from kdserve.export.read.weights import Array

_FAR = np.float32(-1e4)
"""Added to a score, it leaves a weight of 0; low enough for that, and finite, so that padding cannot become NaN."""


def bucketed_bias(table: Array, *, num_buckets: int, max_distance: int) -> Array:
    """Spread a table (buckets, heads) of learned biases over distances: (heads, 2 * max_distance + 1).

    Half of the buckets are for keys behind the query. Of each half, one half holds one distance each, the other
    logarithmically wider ranges up to `max_distance`, beyond which all are one (Raffel et al. 2020, T5).
    """
    distances = np.arange(-max_distance, max_distance + 1)
    size = np.abs(distances)
    half = num_buckets // 2
    exact = half // 2
    far = np.log(np.maximum(size, 1).astype(np.float32) / exact) / np.log(max_distance / exact) * (half - exact)
    buckets = np.where(size < exact, size, np.minimum(exact + far.astype(np.int64), half - 1))
    return np.ascontiguousarray(table[buckets + half * (distances > 0)].T)


def window_bias(reach: int) -> Array:
    """Let a token see `reach` tokens on either side: (1, 2 * reach + 3), 0 within and far below any score beyond."""
    bias = np.zeros((1, 2 * reach + 3), dtype=np.float32)
    bias[:, [0, -1]] = _FAR
    return bias
