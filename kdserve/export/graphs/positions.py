"""Positions in attention, where the tokens' states do not carry them: a bias by distance, or rotated queries and keys.

T tokens, R reach of a bias, W width of a head
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from kdserve.export.graphs.builder import GraphBuilder
from kdserve.export.read.weights import Array, AttentionPositions


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
