"""A BERT body as a graph of fused operators, written straight from the weights.

B batch, T tokens, H hidden width
"""

from __future__ import annotations

import numpy as np
import onnx

from kdserve.export.arithmetic import Arithmetic
from kdserve.export.graph import GraphBuilder
from kdserve.export.head import sentence_embedding
from kdserve.export.table import TableBits, gather_tokens, scaled
from kdserve.export.weights import BertWeights, LayerWeights, NormWeights

_GELU_MIN = -0.17


def bert_graph(
    weights: BertWeights, arithmetic: Arithmetic, *, table_bits: TableBits, half: bool = False
) -> onnx.ModelProto:
    """Write a whole encoder, normalised at its end; `arithmetic` decides how its matrix products are computed."""
    graph = GraphBuilder(half=half)
    tokens = scaled(graph, gather_tokens(graph, weights.table, bits=table_bits))
    num_tokens = graph.add("Shape", "input_ids", start=1, end=2)
    table = graph.constant("positions", weights.positions)
    positions = graph.add("Slice", table, graph.vector(0), num_tokens, graph.vector(0))
    hidden = _add_and_norm(graph, tokens, positions, weights.embedding_norm, "embedding")
    mask_BT = graph.add("Cast", "attention_mask", to=onnx.TensorProto.INT32)
    for index, layer in enumerate(weights.layers):
        hidden = _layer(graph, arithmetic, layer, f"layer{index}", hidden, mask_BT, weights)
    hidden = graph.full_precision(hidden)
    return graph.model(sentence_embedding(graph, hidden, weights), dim=weights.dim, tokens=hidden)


def _layer(
    graph: GraphBuilder,
    arithmetic: Arithmetic,
    layer: LayerWeights,
    name: str,
    hidden: str,
    mask_BT: str,
    weights: BertWeights,
) -> str:
    """Attention and feed-forward, each added to its input and normalised; biases ride in the fused operators."""
    shared = arithmetic.prepare(graph, hidden, f"{name}.attention_input")
    parts = {"query": layer.query, "key": layer.key, "value": layer.value}
    products = [arithmetic.multiply(graph, shared, f"{name}.{part}", w.weight) for part, w in parts.items()]
    bias = graph.constant(f"{name}.attention_bias", np.concatenate([w.bias for w in parts.values()]))
    context = graph.fused("MultiHeadAttention", *products, bias, mask_BT, num_heads=weights.num_heads)
    attended = _linear(graph, arithmetic, context, f"{name}.attention_output", layer.attention_output.weight)
    hidden = _add_and_norm(
        graph, attended, hidden, layer.attention_norm, f"{name}.attention", bias=layer.attention_output.bias
    )
    raised = _linear(graph, arithmetic, hidden, f"{name}.up", layer.up.weight)
    up_bias = graph.constant(f"{name}.up.bias", layer.up.bias)
    activation = "BiasGelu" if weights.activation == "Gelu" else "FastGelu"
    active = arithmetic.prepare(graph, graph.fused(activation, raised, up_bias), f"{name}.down_input", lowest=_GELU_MIN)
    lowered = arithmetic.multiply(graph, active, f"{name}.down", layer.down.weight)
    return _add_and_norm(graph, lowered, hidden, layer.output_norm, f"{name}.output", bias=layer.down.bias)


def _linear(graph: GraphBuilder, arithmetic: Arithmetic, x: str, name: str, weight: np.ndarray) -> str:
    return arithmetic.multiply(graph, arithmetic.prepare(graph, x, f"{name}_input"), name, weight)


def _add_and_norm(
    graph: GraphBuilder, x: str, residual: str, norm: NormWeights, name: str, *, bias: np.ndarray | None = None
) -> str:
    """Add and normalise in plain operators: onnxruntime's fused SkipLayerNormalization takes four times as long."""
    total = graph.add("Add", x, residual)
    if bias is not None:
        total = graph.add("Add", total, graph.constant(f"{name}.bias", bias))
    gain, shift = graph.constant(f"{name}.gain", norm.gain), graph.constant(f"{name}.shift", norm.shift)
    return graph.add("LayerNormalization", total, gain, shift, epsilon=norm.epsilon)
