"""From the tensors of T5 encoders and ModernBERT, which normalise before each part, to one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kdserve.export.distances import bucketed_bias, window_bias
from kdserve.export.weights import (
    Activation,
    Array,
    AttentionPositions,
    BertWeights,
    LayerWeights,
    LinearWeights,
    NormWeights,
)

T5_FAMILIES = {"t5", "mt5", "umt5"}
_T5_ACTIVATIONS: dict[str, Activation] = {"relu": "Relu", "gated-gelu": "FastGelu"}


def t5_without_graph(config: Mapping[str, Any]) -> str:
    """Say what of a T5-like encoder is not known here, or nothing."""
    kind = config.get("feed_forward_proj")
    return "" if kind in _T5_ACTIVATIONS else f"a {config['model_type']} body with the feed-forward part {kind}"


def read_t5(tensors: Mapping[str, Array], config: Mapping[str, Any]) -> BertWeights:
    """Arrange the encoder of a checkpoint without objection by `t5_without_graph`. Raises KeyError for a lack."""

    def norm(name: str) -> NormWeights:
        return NormWeights(gain=tensors[name], shift=None, epsilon=config["layer_norm_epsilon"], centred=False)

    biases: dict[str, AttentionPositions] = {}
    layers = []
    gated = config["feed_forward_proj"] == "gated-gelu"
    for block in (f"encoder.block.{i}.layer" for i in range(config["num_layers"])):
        attention, feed_forward = f"{block}.0.SelfAttention", f"{block}.1.DenseReluDense"
        if (table := tensors.get(f"{attention}.relative_attention_bias.weight")) is not None:  # else the last one's
            distance = config.get("relative_attention_max_distance", 128)
            bias = bucketed_bias(table, num_buckets=len(table), max_distance=distance)
            biases[f"distance{len(biases)}"] = AttentionPositions(distance_bias=bias)
        layers.append(
            LayerWeights(
                query=_linear(tensors, f"{attention}.q"),
                key=_linear(tensors, f"{attention}.k"),
                value=_linear(tensors, f"{attention}.v"),
                attention_output=_linear(tensors, f"{attention}.o"),
                attention_norm=norm(f"{block}.0.layer_norm.weight"),
                up=_linear(tensors, f"{feed_forward}.{'wi_0' if gated else 'wi'}"),
                gate=_linear(tensors, f"{feed_forward}.wi_1") if gated else None,
                down=_linear(tensors, f"{feed_forward}.wo"),
                output_norm=norm(f"{block}.1.layer_norm.weight"),
                positions=list(biases)[-1],
            )
        )
    return BertWeights(
        table=tensors["shared.weight" if "shared.weight" in tensors else "encoder.embed_tokens.weight"],
        positions=None,
        embedding_norm=None,
        layers=tuple(layers),
        num_heads=config["num_heads"],
        activation=_T5_ACTIVATIONS[config["feed_forward_proj"]],
        norm_first=True,
        final_norm=norm("encoder.final_layer_norm.weight"),
        score_scale=1.0,
        attention_positions=biases,
    )


def modernbert_without_graph(config: Mapping[str, Any]) -> str:
    """Say what of a ModernBERT is not known here, or nothing: rotation must be plain, the activation GELU."""
    if (activation := config.get("hidden_activation")) != "gelu":
        return f"a modernbert body with the activation {activation}"
    rotations = (config.get("rope_parameters") or {}).values()
    plain = all(rotation.get("rope_type", "default") == "default" for rotation in rotations)
    return "" if plain and not config.get("rope_scaling") else "a modernbert body with scaled rotation"


def read_modernbert(tensors: Mapping[str, Array], config: Mapping[str, Any]) -> BertWeights:
    """Arrange a checkpoint without objection by `modernbert_without_graph`. Raises KeyError for a lack."""
    tensors = {name.removeprefix("model."): value for name, value in tensors.items()}

    def norm(name: str) -> NormWeights:
        gain, shift = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
        return NormWeights(gain=gain, shift=shift, epsilon=config["norm_eps"])

    kinds = _modernbert_kinds(config)
    layers = []
    for index, kind in enumerate(kinds):
        name = f"layers.{index}"
        query, key, value = _split(_linear(tensors, f"{name}.attn.Wqkv"), 3)
        up, gate = _split(_linear(tensors, f"{name}.mlp.Wi"), 2)
        layers.append(
            LayerWeights(
                query=query,
                key=key,
                value=value,
                attention_output=_linear(tensors, f"{name}.attn.Wo"),
                attention_norm=norm(f"{name}.attn_norm") if index else None,
                up=up,
                gate=gate,
                down=_linear(tensors, f"{name}.mlp.Wo"),
                output_norm=norm(f"{name}.mlp_norm"),
                positions=kind,
            )
        )
    return BertWeights(
        table=tensors["embeddings.tok_embeddings.weight"],
        positions=None,
        embedding_norm=norm("embeddings.norm"),
        layers=tuple(layers),
        num_heads=config["num_attention_heads"],
        activation="Gelu",
        norm_first=True,
        final_norm=norm("final_norm"),
        attention_positions={kind: _modernbert_positions(config, kind) for kind in sorted(set(kinds))},
    )


def _modernbert_kinds(config: Mapping[str, Any]) -> list[str]:
    """Name each layer's attention: listed since transformers 5, every n-th is full before."""
    every = config.get("global_attn_every_n_layers", 3)
    number = range(config["num_hidden_layers"])
    return config.get("layer_types") or ["sliding_attention" if i % every else "full_attention" for i in number]


def _modernbert_positions(config: Mapping[str, Any], kind: str) -> AttentionPositions:
    old_name, default = {
        "full_attention": ("global_rope_theta", 160_000.0),
        "sliding_attention": ("local_rope_theta", 10_000.0),
    }[kind]
    rotation = (config.get("rope_parameters") or {}).get(kind) or {}
    theta = rotation.get("rope_theta", config.get(old_name, default))
    width = config["hidden_size"] // config["num_attention_heads"]
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    positions = AttentionPositions(frequencies=np.reciprocal(np.power(np.float32(theta), exponents)))
    if kind == "full_attention":
        return positions
    return replace(positions, distance_bias=window_bias(config["local_attention"] // 2))


def _linear(tensors: Mapping[str, Array], name: str) -> LinearWeights:
    return LinearWeights(weight=np.ascontiguousarray(tensors[f"{name}.weight"].T), bias=tensors.get(f"{name}.bias"))


def _split(linear: LinearWeights, parts: int) -> list[LinearWeights]:
    """Part a product that computes several at once, side by side."""
    weights = np.split(linear.weight, parts, axis=1)
    biases = [None] * parts if linear.bias is None else np.split(linear.bias, parts)
    return [
        LinearWeights(weight=np.ascontiguousarray(weight), bias=bias)
        for weight, bias in zip(weights, biases, strict=True)
    ]
