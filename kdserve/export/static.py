"""The static student: its table as a folder stores it, and its graph: a token table, a masked mean, unit length.

B batch, T tokens, H width
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from kdserve.export.graph import GraphBuilder
from kdserve.export.table import TableBits, gather_tokens
from kdserve.export.tensors import read_stored, read_tensors
from kdserve.export.weights import Array, StaticWeights


def static_graph(weights: StaticWeights, *, table_bits: TableBits, half: bool = False) -> onnx.ModelProto:
    """Write a static student's graph. The mean's divisor falls away under the normalisation."""
    graph = GraphBuilder(half=half)
    tokens = gather_tokens(graph, weights.table, bits=table_bits)
    values = graph.full_precision(tokens.values)
    mask_BT1 = graph.add("Unsqueeze", graph.to_float("attention_mask"), graph.vector(2))
    share_BT1 = mask_BT1 if tokens.scales is None else graph.add("Mul", mask_BT1, tokens.scales)
    share_B1T = graph.add("Transpose", share_BT1, perm=[0, 2, 1])
    sum_BH = graph.add("Squeeze", graph.add("MatMul", share_B1T, values), graph.vector(1))
    return graph.model(graph.add("LpNormalization", sum_BH, axis=-1, p=2), dim=weights.dim)


def read_table(folder: Path) -> Array:
    """Read a token table (V, H) of sentence-transformers, or of model2vec, whose rows may be shared and weighted.

    Raises:
        FolderError: a file is missing or damaged, or a weight is no number.
    """
    tensors = read_tensors(folder)
    if "embeddings" not in tensors:
        return tensors["embedding.weight"]
    table, mapping = tensors["embeddings"], read_stored(folder).get("mapping")
    rows = table if mapping is None else table[mapping.astype(np.int64)]
    weights = tensors.get("weights")
    return rows if weights is None else rows * weights[:, None]
