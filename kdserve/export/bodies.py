"""From the tensor names of BERT, RoBERTa, XLM-R and DistilBERT checkpoints to one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdserve.export.weights import Activation, Array, BertWeights, LayerWeights, LinearWeights, NormWeights

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "Gelu",
    "gelu_new": "FastGelu",
    "gelu_fast": "FastGelu",
    "gelu_pytorch_tanh": "FastGelu",
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
_FAMILIES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "distilbert": _DISTILBERT,
}
_POSITIONS_AFTER_PADDING = {"roberta", "xlm-roberta", "camembert"}


def is_bert_like(config: Mapping[str, Any]) -> bool:
    """Say whether a body can be written from its weights: a known family, absolute positions, GELU."""
    names = _FAMILIES.get(config.get("model_type", ""))
    if names is None or config.get(names.activation) not in _ACTIVATIONS:
        return False
    return config.get("position_embedding_type", "absolute") == "absolute" and not config.get("is_decoder", False)


def read_body(tensors: Mapping[str, Array], config: Mapping[str, Any]) -> BertWeights:
    """Arrange the tensors of a checkpoint for which `is_bert_like` holds.

    Raises:
        KeyError: a tensor or a setting is missing.
    """
    family = config["model_type"]
    names = _FAMILIES[family]
    tensors = {name.removeprefix(f"{family.replace('-', '_')}."): value for name, value in tensors.items()}
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
        )

    positions = tensors["embeddings.position_embeddings.weight"]
    if family in _POSITIONS_AFTER_PADDING:  # the first token stands at padding_idx + 1
        positions = positions[config["pad_token_id"] + 1 :]
    segments = tensors.get("embeddings.token_type_embeddings.weight")
    return BertWeights(
        table=tensors["embeddings.word_embeddings.weight"],
        positions=positions if segments is None else positions + segments[0],
        embedding_norm=norm("embeddings.LayerNorm"),
        layers=tuple(layer(f"{names.layer}.{i}") for i in range(config[names.num_layers])),
        num_heads=config[names.num_heads],
        activation=_ACTIVATIONS[config[names.activation]],
    )
