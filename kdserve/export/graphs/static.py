"""The static student's graph: a token table, a masked mean, unit length.

B batch, T tokens, H width
"""

from __future__ import annotations

import onnx

from kdserve.export.graphs.builder import GraphBuilder
from kdserve.export.graphs.table import gather_tokens
from kdserve.export.read.weights import StaticWeights
from kdserve.precisions import TableBits


def static_graph(weights: StaticWeights, *, table_bits: TableBits, half: bool) -> onnx.ModelProto:
    """Write a static student's graph. The mean's divisor falls away under the normalisation."""
    graph = GraphBuilder(half=half)
    tokens = gather_tokens(graph, weights.table, bits=table_bits)
    values = graph.full_precision(tokens.values)
    mask_BT1 = graph.add("Unsqueeze", graph.to_float("attention_mask"), graph.vector(2))
    share_BT1 = mask_BT1 if tokens.scales is None else graph.add("Mul", mask_BT1, tokens.scales)
    share_B1T = graph.add("Transpose", share_BT1, perm=[0, 2, 1])
    sum_BH = graph.add("Squeeze", graph.add("MatMul", share_B1T, values), graph.vector(1))
    return graph.model(graph.add("LpNormalization", sum_BH, axis=-1, p=2), dim=weights.dim)
