"""From hidden states to the sentence's vector: pooling, layers, unit length.

B batch, T tokens, H hidden width, D width of the embedding
"""

from __future__ import annotations

import numpy as np
from numpy import float32, int64
from numpy.typing import NDArray
from onnx import TensorProto

from kdserve.export.graphs.builder import GraphBuilder
from kdserve.export.read.weights import DenseWeights, Head, HeadLayer, NormWeights, Pooling

_LOWEST = -3.4e38
_NO_DIRECTION = 1e-5
"""Singular values below are the rounding of float32."""
_OPERATORS = {"Tanh": "Tanh", "ReLU": "Relu", "Sigmoid": "Sigmoid"}


def sentence_embedding(graph: GraphBuilder, hidden_BTH: str, head: Head) -> str:
    """Pool the real tokens' states and bring the vector to unit length: the name of a (B, D) tensor."""
    scaled = bool(head.layers) or len(head.pooling) > 1  # else the divisor falls away under the normalisation
    pooled = [_pool(graph, hidden_BTH, pooling, scaled=scaled) for pooling in head.pooling]
    vector = pooled[0] if len(pooled) == 1 else graph.add("Concat", *pooled, axis=-1)
    for index, layer in enumerate(head.layers):
        vector = _apply(graph, vector, layer, f"dense{index}")
    if head.truncate_dim:
        first, last = graph.vector(0), graph.vector(head.truncate_dim)
        vector = graph.add("Slice", vector, first, last, graph.vector(1))
    return _normalise(graph, vector)


def _normalise(graph: GraphBuilder, vector_BD: str) -> str:
    return graph.add("LpNormalization", vector_BD, axis=-1, p=2)


def _apply(graph: GraphBuilder, vector: str, layer: HeadLayer, name: str) -> str:
    if isinstance(layer, DenseWeights):
        product = _product(graph, vector, layer.linear.weight, name)
        if layer.linear.bias is not None:
            product = graph.add("Add", product, graph.constant(f"{name}.bias", layer.linear.bias))
        if layer.activation == "Identity":
            return product
        if layer.activation == "GELU":
            return graph.fused("Gelu", product)
        return graph.add(_OPERATORS[layer.activation], product)
    if isinstance(layer, NormWeights):
        assert layer.shift is not None
        constants = graph.constant(f"{name}.gain", layer.gain), graph.constant(f"{name}.shift", layer.shift)
        return graph.add("LayerNormalization", vector, *constants, epsilon=layer.epsilon)
    return _normalise(graph, vector)


def _product(graph: GraphBuilder, vector: str, weight: NDArray[float32], name: str) -> str:
    """Multiply; a square matrix that takes only some directions off, as kdserve neutralise's, is stored as those."""
    width = len(weight)
    if weight.shape == (width, width):
        left, values, right = np.linalg.svd(weight.astype(np.float64) - np.eye(width))
        rank = int((values > _NO_DIRECTION).sum())
        if 0 < 4 * rank <= width:
            inner = (left[:, :rank] * values[:rank]).astype(float32)
            lengths = graph.add("MatMul", vector, graph.constant(f"{name}.directions", inner))
            taken = graph.add("MatMul", lengths, graph.constant(f"{name}.back", right[:rank].astype(float32)))
            return graph.add("Add", vector, taken)
    return graph.add("MatMul", vector, graph.constant(name, weight))


def _pool(graph: GraphBuilder, hidden_BTH: str, pooling: Pooling, *, scaled: bool) -> str:
    """Pool one way; what is only a factor is left out unless `scaled`."""
    if pooling == "cls":
        return graph.add("Gather", hidden_BTH, graph.scalar(0, int64), axis=1)
    if pooling == "lasttoken":
        return _last(graph, hidden_BTH)
    if pooling == "max":
        return _max(graph, hidden_BTH)
    weights_BT = graph.to_float("attention_mask")
    if pooling == "weightedmean":  # tokens count by their positions, from 1; padding stands on the right
        weights_BT = graph.add("Mul", weights_BT, graph.add("CumSum", weights_BT, graph.scalar(1, int64)))
    weights_B1T = graph.add("Unsqueeze", weights_BT, graph.vector(1))
    sum_BH = graph.add("Squeeze", graph.add("MatMul", weights_B1T, hidden_BTH), graph.vector(1))
    if not scaled:
        return sum_BH
    total_B1 = graph.add("ReduceSum", weights_BT, graph.vector(1), keepdims=1)
    return graph.add("Div", sum_BH, graph.add("Sqrt", total_B1) if pooling == "mean_sqrt_len_tokens" else total_B1)


def _max(graph: GraphBuilder, hidden_BTH: str) -> str:
    real_BT1 = graph.add("Unsqueeze", graph.add("Cast", "attention_mask", to=TensorProto.BOOL), graph.vector(2))
    masked_BTH = graph.add("Where", real_BT1, hidden_BTH, graph.scalar(_LOWEST))
    return graph.add("ReduceMax", masked_BTH, graph.vector(1), keepdims=0)


def _last(graph: GraphBuilder, hidden_BTH: str) -> str:
    """Take each text's last real token; padding stands on the right."""
    count_B1 = graph.add("ReduceSum", "attention_mask", graph.vector(1), keepdims=1)
    index_B1 = graph.add("Sub", count_B1, graph.scalar(1, int64))
    return graph.add("GatherND", hidden_BTH, index_B1, batch_dims=1)
