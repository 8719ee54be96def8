"""From hidden states to the sentence's vector: pooling, dense layers, unit length.

B batch, T tokens, H hidden width, D width of the embedding
"""

from __future__ import annotations

from numpy import int64

from kdserve.export.graph import GraphBuilder
from kdserve.export.weights import Head


def sentence_embedding(graph: GraphBuilder, hidden_BTH: str, head: Head) -> str:
    """Pool the real tokens' states and bring the vector to unit length: the name of a (B, D) tensor."""
    pooled = _POOLERS[head.pooling](graph, hidden_BTH)
    if head.dense and head.pooling == "mean":  # else the divisor falls away under the normalisation
        count_B1 = graph.add("ReduceSum", graph.to_float("attention_mask"), graph.vector(1), keepdims=1)
        pooled = graph.add("Div", pooled, count_B1)
    for index, layer in enumerate(head.dense):
        name = f"dense{index}"
        pooled = graph.add("MatMul", pooled, graph.constant(name, layer.linear.weight))
        if layer.linear.bias is not None:
            pooled = graph.add("Add", pooled, graph.constant(f"{name}.bias", layer.linear.bias))
        pooled = graph.add("Tanh", pooled) if layer.tanh else pooled
    return graph.add("LpNormalization", pooled, axis=-1, p=2)


def _sum(graph: GraphBuilder, hidden_BTH: str) -> str:
    mask_B1T = graph.add("Unsqueeze", graph.to_float("attention_mask"), graph.vector(1))
    return graph.add("Squeeze", graph.add("MatMul", mask_B1T, hidden_BTH), graph.vector(1))


def _first(graph: GraphBuilder, hidden_BTH: str) -> str:
    return graph.add("Gather", hidden_BTH, graph.scalar(0, int64), axis=1)


def _last(graph: GraphBuilder, hidden_BTH: str) -> str:
    """Take each text's last real token; padding stands on the right."""
    count_B1 = graph.add("ReduceSum", "attention_mask", graph.vector(1), keepdims=1)
    index_B1 = graph.add("Sub", count_B1, graph.scalar(1, int64))
    return graph.add("GatherND", hidden_BTH, index_B1, batch_dims=1)


_POOLERS = {"mean": _sum, "cls": _first, "last": _last}
