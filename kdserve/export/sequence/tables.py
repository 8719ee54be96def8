"""Rows of token tables, one of which the decoder writes by too, and so stores on its side.

V vocabulary, H width, B batch, T tokens
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from kdserve.export.graphs.builder import GraphBuilder
from kdserve.export.graphs.exact import quantize_columns
from kdserve.export.graphs.table import quantize_rows
from kdserve.export.read.weights import Array

OUTPUT_TABLE = "table"
"""The constant of the product that gives the logits: the table on its side, (H, V)."""
RowBits = Literal[8, 32]


def read_rows(graph: GraphBuilder, table_VH: Array, ids: str, *, name: str, bits: RowBits) -> str:
    """Look up `ids` (B, T): the name of a (B, T, H) tensor.

    From a table of its own, or from the very constant of the product that gives the logits, whose columns are tokens.
    """
    if name != OUTPUT_TABLE:
        return _own_rows(graph, table_VH, ids, name=name, bits=bits)
    columns_HV: np.ndarray = np.ascontiguousarray(table_VH.T)
    if bits == 8:
        columns_HV, scales_V = quantize_columns(columns_HV)
    gathered = graph.add("Gather", graph.constant(name, columns_HV), ids, axis=1)
    rows = graph.add("Transpose", gathered, perm=[1, 2, 0])
    return rows if bits == 32 else _scaled(graph, rows, ids, name, scales_V[:, None])


def _own_rows(graph: GraphBuilder, table_VH: Array, ids: str, *, name: str, bits: RowBits) -> str:
    if bits == 32:
        return graph.add("Gather", graph.constant(name, table_VH), ids)
    rows_VH, scales_V1 = quantize_rows(table_VH)
    return _scaled(graph, graph.add("Gather", graph.constant(name, rows_VH), ids), ids, name, scales_V1)


def _scaled(graph: GraphBuilder, rows: str, ids: str, name: str, scales_V1: Array) -> str:
    scales = graph.add("Gather", graph.constant(f"{name}.row_scales", scales_V1), ids)
    return graph.add("Mul", graph.to_float(rows), scales)
