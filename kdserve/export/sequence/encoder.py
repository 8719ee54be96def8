"""An encoder as a graph that ends in what the decoder's cross-attention reads.

B batch, S source tokens, A heads, W head width, H hidden width
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from kdserve.datatypes import TokenBatch
from kdserve.export.graphs.arithmetic import Arithmetic
from kdserve.export.graphs.builder import Form, GraphBuilder
from kdserve.export.graphs.smoothing import best_smoothing
from kdserve.export.graphs.table import gather_tokens, scaled
from kdserve.export.graphs.transformer import hidden_states
from kdserve.export.read.weights import Array, TransformerWeights
from kdserve.export.sequence.tables import OUTPUT_TABLE, RowBits, read_rows
from kdserve.export.sequence.weights import SequenceWeights
from kdserve.precisions import TableBits
from kdserve.runtime.session import open_graph


def encoder_graph(
    weights: SequenceWeights,
    arithmetic: Arithmetic,
    *,
    row_bits: RowBits,
    table_bits: TableBits,
    source_ids: Sequence[int],
) -> onnx.ModelProto:
    """Write an encoder: `input_ids`, `attention_mask` (B, S) int64 in, `source.i.key` and `.value` (B, A, S, W) out for
    each decoder layer i.

    A table of the encoder's own is stored in `table_bits`, one shared with the decoder as that one is, in `row_bits`.
    `source_ids` are the rows of the table that the tokenizer's ids stand for, where they are not the rows themselves.
    """
    graph = GraphBuilder()
    hidden = hidden_states(
        graph, arithmetic, weights.encoder, _read_tokens(graph, weights, row_bits, table_bits, source_ids)
    )
    if weights.bridge is not None:
        operand = arithmetic.prepare(graph, hidden, "bridge_input")
        hidden = arithmetic.multiply(graph, operand, "bridge", weights.bridge)
    operand = arithmetic.prepare(graph, hidden, "source_input")
    heads = weights.decoder.num_heads
    made: dict[str, str] = {}
    outputs: dict[str, Form] = {}
    for index, layer in enumerate(weights.decoder.layers):
        for part, linear in (("key", layer.cross.key), ("value", layer.cross.value)):
            name, width = f"source.{index}.{part}", linear.weight.shape[1] // heads
            product = arithmetic.multiply(graph, operand, f"decoder{index}.{part}", linear)
            split = graph.add("Reshape", product, graph.vector(0, 0, heads, width))
            made[name] = graph.add("Transpose", split, perm=[0, 2, 1, 3])
            outputs[name] = (TensorProto.FLOAT, ("batch", heads, "source", width))
    inputs: dict[str, Form] = dict.fromkeys(("input_ids", "attention_mask"), (TensorProto.INT64, ("batch", "source")))
    return graph.close("encoder", inputs, outputs, made)


def smoothed_encoder_graph(
    weights: SequenceWeights,
    *,
    ranges: list[TokenBatch],
    development: list[TokenBatch],
    table_bits: TableBits,
    source_ids: Sequence[int],
) -> onnx.ModelProto:
    """Write an encoder in int8, smoothed so that what a decoder reads of the development texts changes least."""

    def write(body: TransformerWeights, arithmetic: Arithmetic, bits: TableBits) -> onnx.ModelProto:
        own = replace(weights, encoder=body)
        row_bits: RowBits = 32 if bits == 32 else 8
        return encoder_graph(own, arithmetic, row_bits=row_bits, table_bits=bits, source_ids=source_ids)

    found = best_smoothing(
        weights.encoder, write, _states, ranges=ranges, development=development, table_bits=table_bits
    )
    return found.model


def _states(model: onnx.ModelProto, batches: Iterable[TokenBatch]) -> Array:
    """Keys and values of each real token, all layers' side by side, of unit length."""
    session = open_graph(model.SerializeToString())
    rows = []
    for batch in batches:
        parts = session.run(None, {"input_ids": batch.ids, "attention_mask": batch.mask})
        both = np.concatenate([part.transpose(0, 2, 1, 3)[batch.mask.astype(bool)] for part in parts], axis=1)
        rows.append(both.reshape(len(both), -1))
    joined = np.concatenate(rows)
    states: Array = joined / np.linalg.norm(joined, axis=1, keepdims=True)
    return states


def _read_tokens(
    graph: GraphBuilder, weights: SequenceWeights, row_bits: RowBits, table_bits: TableBits, source_ids: Sequence[int]
) -> str:
    table = weights.encoder.table
    if weights.shares_table:
        ids = "input_ids"
        if source_ids:
            ids = graph.add("Gather", graph.constant("source_ids", np.array(source_ids, dtype=np.int64)), ids)
        hidden = read_rows(graph, table, ids, name=OUTPUT_TABLE, bits=row_bits)
    else:
        own = table[list(source_ids)] if source_ids else table
        hidden = scaled(graph, gather_tokens(graph, own, bits=table_bits))
    return hidden if weights.table_scale == 1.0 else graph.add("Mul", hidden, graph.scalar(weights.table_scale))
