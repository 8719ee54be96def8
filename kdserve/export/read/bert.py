"""From the tensor names of BERT, RoBERTa, XLM-R, DistilBERT and MPNet checkpoints to one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdserve.export.read.distances import bucketed_bias
from kdserve.export.read.weights import (
    Activation,
    Array,
    AttentionPositions,
    LayerWeights,
    LinearWeights,
    NormWeights,
    TransformerWeights,
)

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "Gelu",
    "gelu_new": "FastGelu",
    "gelu_fast": "FastGelu",
    "gelu_pytorch_tanh": "FastGelu",
    "gelu_python": "Gelu",
    "relu": "Relu",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Names:
    """How a family names its tensors and settings; `layer` is followed by the layer's number."""

    layer: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    up: str
    down: str
    output_norm: str
    num_layers: str = "num_hidden_layers"
    num_heads: str = "num_attention_heads"
    activation: str = "hidden_act"


_BERT = _Names(
    layer="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
_DISTILBERT = _Names(
    layer="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
    num_layers="n_layers",
    num_heads="n_heads",
    activation="activation",
)
_MPNET = replace(
    _BERT,
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
)
FAMILIES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "distilbert": _DISTILBERT,
    "mpnet": _MPNET,
}
_PREFIXES = {"bert", "roberta", "distilbert", "mpnet"}  # XLM-R and CamemBERT say roberta, too
POSITIONS_AFTER_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet"}
_MPNET_PADDING, _MPNET_BUCKETS, _MPNET_DISTANCE = 1, 32, 128  # constants of its code, whatever the configuration says


def bert_without_graph(config: Mapping[str, Any]) -> str:
    """Say what of a body like BERT's is not known here, or nothing."""
    family = config["model_type"]
    names = FAMILIES[family]
    if (activation := config.get(names.activation)) not in _ACTIVATIONS:
        return f"a {family} body with the activation {activation}"
    if (kind := config.get("position_embedding_type") or "absolute") != "absolute":
        return f"a {family} body with {kind} positions"
    return f"a {family} body that is a decoder" if config.get("is_decoder") else ""


def read_bert(tensors: Mapping[str, Array], config: Mapping[str, Any]) -> TransformerWeights:
    """Arrange a checkpoint without objection by `bert_without_graph`. Raises KeyError for a lack."""
    family = config["model_type"]
    names = FAMILIES[family]
    tensors = {_plain_name(name): value for name, value in tensors.items()}
    epsilon = config.get("layer_norm_eps", 1e-12)

    def linear(name: str) -> LinearWeights:
        weight = np.ascontiguousarray(tensors[f"{name}.weight"].T)
        return LinearWeights(weight=weight, bias=tensors[f"{name}.bias"])

    def norm(name: str) -> NormWeights:
        return NormWeights(gain=tensors[f"{name}.weight"], shift=tensors[f"{name}.bias"], epsilon=epsilon)

    def layer(name: str) -> LayerWeights:
        return LayerWeights(
            query=linear(f"{name}.{names.query}"),
            key=linear(f"{name}.{names.key}"),
            value=linear(f"{name}.{names.value}"),
            attention_output=linear(f"{name}.{names.attention_output}"),
            attention_norm=norm(f"{name}.{names.attention_norm}"),
            up=linear(f"{name}.{names.up}"),
            down=linear(f"{name}.{names.down}"),
            output_norm=norm(f"{name}.{names.output_norm}"),
            positions="distance" if relative is not None else None,
        )

    positions = tensors["embeddings.position_embeddings.weight"]
    if family in POSITIONS_AFTER_PADDING:  # the first token stands at padding_idx + 1
        positions = positions[(_MPNET_PADDING if family == "mpnet" else config["pad_token_id"]) + 1 :]
    relative = tensors.get("encoder.relative_attention_bias.weight")
    biases = {}
    if relative is not None:
        bias = bucketed_bias(relative, num_buckets=_MPNET_BUCKETS, max_distance=_MPNET_DISTANCE)
        biases["distance"] = AttentionPositions(distance_bias=bias)
    segments = tensors.get("embeddings.token_type_embeddings.weight")
    return TransformerWeights(
        table=tensors["embeddings.word_embeddings.weight"],
        positions=positions if segments is None else positions + segments[0],
        embedding_norm=norm("embeddings.LayerNorm"),
        layers=tuple(layer(f"{names.layer}.{i}") for i in range(config[names.num_layers])),
        num_heads=config[names.num_heads],
        activation=_ACTIVATIONS[config[names.activation]],
        attention_positions=biases,
    )


def _plain_name(name: str) -> str:
    """Undo the prefix of a checkpoint with a head of its own, and the names of norms from TensorFlow."""
    prefix, _, rest = name.partition(".")
    name = rest if prefix in _PREFIXES else name
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
