"""Rows of token tables, one of which the decoder writes by too.

V vocabulary, H width, B batch, T tokens
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from kdserve.export.graphs.arithmetic import Operand
from kdserve.export.graphs.builder import GraphBuilder
from kdserve.export.graphs.exact import quantize_columns
from kdserve.export.graphs.table import quantize_rows
from kdserve.export.read.weights import Array

OUTPUT_TABLE = "table"
"""The table (V, H) whose product gives the logits."""
RowBits = Literal[8, 32]


def read_rows(graph: GraphBuilder, table_VH: Array, ids: str, *, name: str, bits: RowBits) -> str:
    """Look up `ids` (B, T): the name of a (B, T, H) tensor.

    From a table of its own, or from the very constant of the product that gives the logits.
    """
    if bits == 32:
        return graph.add("Gather", graph.constant(name, table_VH), ids)
    rows_VH, scales_V = _output_rows(table_VH) if name == OUTPUT_TABLE else quantize_rows(table_VH)
    rows = graph.add("Gather", graph.constant(name, rows_VH), ids)
    scales = graph.add("Gather", graph.constant(f"{name}.row_scales", scales_V.reshape(-1, 1)), ids)
    return graph.add("Mul", graph.to_float(rows), scales)


def multiply_rows(graph: GraphBuilder, operand: Operand, table_VH: Array, *, bits: RowBits) -> str:
    """Multiply a left side (B, H) by each row of the table that the decoder writes by: the name of a (B, V) tensor.

    It is to be multiplied by the left side's scales yet (`scaled_by`).
    """
    if bits == 32:
        return graph.add("Gemm", operand.values, graph.constant(OUTPUT_TABLE, table_VH), transB=1)
    rows_VH, scales_V = _output_rows(table_VH)
    scales = graph.constant(f"{OUTPUT_TABLE}.scales", scales_V * np.float32(operand.step))
    rows = [
        graph.constant(OUTPUT_TABLE, rows_VH),
        scales,
        graph.constant(f"{OUTPUT_TABLE}.zero", np.zeros(len(rows_VH), np.int8)),
    ]
    return graph.fused("QGemm", operand.values, graph.scalar(1.0), operand.zero, *rows, transB=1)


def scaled_by(graph: GraphBuilder, x: str, scales: str) -> str:
    """Multiply by scales, where there are any."""
    return graph.add("Mul", x, scales) if scales else x


def _output_rows(table_VH: Array) -> tuple[np.ndarray, Array]:
    columns_HV, scales_V = quantize_columns(np.ascontiguousarray(table_VH.T))
    return np.ascontiguousarray(columns_HV.T), scales_V
