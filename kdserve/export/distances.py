"""What attention is told of positions beside the tokens' states: a bias by distance, or rotated queries and keys.

T tokens, R reach of a bias, W width of a head
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from kdserve.export.graph import GraphBuilder
from kdserve.export.weights import Array, AttentionPositions

_FAR = np.float32(-1e4)
"""Added to a score, it leaves a weight of 0; low enough for that, and finite, so that padding cannot become NaN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionTensors:
    """Names in a graph: `bias` (1, heads or 1, T, T), and the rotation's `cosines` and `sines` (T, W / 2), or ""."""

    bias: str = ""
    cosines: str = ""
    sines: str = ""

    def rotate(self, graph: GraphBuilder, x: str) -> str:
        """Turn queries or keys (B, T, H) by their positions (Su et al. 2021, arXiv:2104.09864)."""
        if not self.cosines:
            return x
        return graph.fused("RotaryEmbedding", x, graph.vector(0), self.cosines, self.sines)


def write_positions(graph: GraphBuilder, name: str, positions: AttentionPositions) -> PositionTensors:
    """Write what several layers share."""
    length = graph.add("Squeeze", graph.add("Shape", "input_ids", start=1, end=2))
    places_T = graph.add("Range", graph.scalar(0, np.int64), length, graph.scalar(1, np.int64))
    bias = cosines = sines = ""
    if positions.distance_bias is not None:
        bias = _gather_bias(graph, f"{name}.distance_bias", positions.distance_bias, places_T)
    if positions.frequencies is not None:
        frequencies = graph.constant(f"{name}.frequencies", positions.frequencies, exact=True)
        places_T1 = graph.add("Unsqueeze", graph.add("Cast", places_T, to=onnx.TensorProto.FLOAT), graph.vector(1))
        angles = graph.add("Mul", places_T1, frequencies)
        cosines, sines = (graph.to_float(graph.add(function, angles)) for function in ("Cos", "Sin"))
    return PositionTensors(bias=bias, cosines=cosines, sines=sines)


def _gather_bias(graph: GraphBuilder, name: str, bias_HD: Array, places_T: str) -> str:
    reach = bias_HD.shape[1] // 2
    keys, queries = (graph.add("Unsqueeze", places_T, graph.vector(axis)) for axis in (0, 1))
    low, high = graph.scalar(-reach, np.int64), graph.scalar(reach, np.int64)
    distances_TT = graph.add("Clip", graph.add("Sub", keys, queries), low, high)
    gathered = graph.add("Gather", graph.constant(name, bias_HD), graph.add("Add", distances_TT, high), axis=1)
    return graph.add("Unsqueeze", gathered, graph.vector(0))


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
