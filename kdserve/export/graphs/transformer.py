"""A transformer body as a graph of fused operators, written straight from the weights.

B batch, T tokens, H hidden width
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from kdserve.export.graphs.arithmetic import Arithmetic
from kdserve.export.graphs.builder import GraphBuilder
from kdserve.export.graphs.head import sentence_embedding
from kdserve.export.graphs.positions import PositionTensors, write_positions
from kdserve.export.graphs.table import gather_tokens, scaled
from kdserve.export.read.weights import Activation, Array, LayerWeights, LinearWeights, NormWeights, TransformerWeights
from kdserve.precisions import TableBits
from kdserve.runtime.batches import canonical_length

LOWEST: Mapping[Activation, float] = {"Gelu": -0.17, "FastGelu": -0.17, "Relu": 0.0, "Swish": -0.28}
"""Under which no value of an activation lies."""


def transformer_graph(
    weights: TransformerWeights, arithmetic: Arithmetic, *, table_bits: TableBits, half: bool = False
) -> onnx.ModelProto:
    """Write a whole encoder, normalised at its end; `arithmetic` decides how its matrix products are computed."""
    graph = GraphBuilder(half=half)
    tokens = scaled(graph, gather_tokens(graph, weights.table, bits=table_bits))
    hidden = graph.full_precision(hidden_states(graph, arithmetic, weights, tokens))
    return graph.model(sentence_embedding(graph, hidden, weights.head), dim=weights.dim, tokens=hidden)


def hidden_states(graph: GraphBuilder, arithmetic: Arithmetic, weights: TransformerWeights, tokens: str) -> str:
    """From rows of the table, `tokens` (B, T, H), to the last layer's states (B, T, H)."""
    if weights.positions is not None:
        num_tokens = graph.add("Shape", "input_ids", start=1, end=2)
        table = graph.constant("positions", _as_long_as_batches(weights.positions))
        tokens = graph.add("Add", tokens, graph.add("Slice", table, graph.vector(0), num_tokens, graph.vector(0)))
    body = _Body(graph, arithmetic, weights)
    hidden = body.normalise(tokens, weights.embedding_norm, "embedding")
    for index, layer in enumerate(weights.layers):
        hidden = body.layer(hidden, layer, f"layer{index}")
    return body.normalise(hidden, weights.final_norm, "final")


def normalise(graph: GraphBuilder, x: str, norm: NormWeights, name: str) -> str:
    """Normalise in plain operators: onnxruntime's fused SkipLayerNormalization takes four times as long."""
    constants = [graph.constant(f"{name}.gain", norm.gain)]
    if norm.shift is not None:
        constants.append(graph.constant(f"{name}.shift", norm.shift))
    kind = "LayerNormalization" if norm.centred else "SimplifiedLayerNormalization"
    return graph.add(kind, x, *constants, epsilon=norm.epsilon)


def activate(graph: GraphBuilder, x: str, activation: Activation) -> str:
    """Put an activation behind x."""
    if activation == "Relu":
        return graph.add("Relu", x)
    return graph.fused("QuickGelu", x, alpha=1.0) if activation == "Swish" else graph.fused(activation, x)


def _as_long_as_batches(positions_PH: Array) -> Array:
    """Repeat the last position for the padding that stands behind the longest texts in a batch."""
    missing = canonical_length(len(positions_PH)) - len(positions_PH)
    return np.pad(positions_PH, ((0, missing), (0, 0)), mode="edge")


class _Body:
    """Writes the layers of one graph. Methods take and return names of tensors; `name` is that of their constants."""

    def __init__(self, graph: GraphBuilder, arithmetic: Arithmetic, weights: TransformerWeights) -> None:
        self._graph = graph
        self._arithmetic = arithmetic
        self._weights = weights
        self._positions = {
            name: write_positions(graph, name, positions) for name, positions in weights.attention_positions.items()
        }
        self._mask_BT = graph.add("Cast", "attention_mask", to=onnx.TensorProto.INT32)

    def layer(self, hidden: str, layer: LayerWeights, name: str) -> str:
        """Attention and feed-forward, each added to its input and normalised."""
        parts = (
            (self._attention, layer.attention_norm, f"{name}.attention"),
            (self._feed_forward, layer.output_norm, f"{name}.output"),
        )
        for part, norm, norm_name in parts:
            before = self.normalise(hidden, norm, norm_name) if self._weights.norm_first else hidden
            hidden = self._graph.add("Add", part(before, layer, name), hidden)
            hidden = hidden if self._weights.norm_first else self.normalise(hidden, norm, norm_name)
        return hidden

    def normalise(self, x: str, norm: NormWeights | None, name: str) -> str:
        """Normalise, where there is a norm."""
        return x if norm is None else normalise(self._graph, x, norm, name)

    def _attention(self, x: str, layer: LayerWeights, name: str) -> str:
        """Attend over all heads and project."""
        graph, shared = self._graph, self._arithmetic.prepare(self._graph, x, f"{name}.attention_input")
        parts = {"query": layer.query, "key": layer.key, "value": layer.value}
        products = [self._arithmetic.multiply(graph, shared, f"{name}.{part}", own) for part, own in parts.items()]
        positions = self._positions[layer.positions] if layer.positions else PositionTensors()
        products[:2] = [positions.rotate(graph, product) for product in products[:2]]
        scale = {} if self._weights.score_scale is None else {"scale": self._weights.score_scale}
        inputs = (*products, "", self._mask_BT, positions.bias)
        context = graph.fused("MultiHeadAttention", *inputs, num_heads=self._weights.num_heads, **scale)
        return self._product(context, f"{name}.attention_output", layer.attention_output)

    def _feed_forward(self, x: str, layer: LayerWeights, name: str) -> str:
        """Widen, activate, gate and narrow."""
        graph, shared = self._graph, self._arithmetic.prepare(self._graph, x, f"{name}.up_input")
        activation = self._weights.activation
        raised = self._arithmetic.multiply(graph, shared, f"{name}.up", layer.up)
        active = activate(graph, raised, activation)
        if layer.gate is None:
            return self._product(active, f"{name}.down", layer.down, lowest=LOWEST[activation])
        gated = graph.add("Mul", active, self._arithmetic.multiply(graph, shared, f"{name}.gate", layer.gate))
        return self._product(gated, f"{name}.down", layer.down)

    def _product(self, x: str, name: str, linear: LinearWeights, *, lowest: float | None = None) -> str:
        operand = self._arithmetic.prepare(self._graph, x, f"{name}_input", lowest=lowest)
        return self._arithmetic.multiply(self._graph, operand, name, linear)
