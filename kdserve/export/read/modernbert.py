"""From the tensors of ModernBERT, which normalises before each part, to one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kdserve.export.read.distances import window_bias
from kdserve.export.read.linear import read_linear
from kdserve.export.read.weights import (
    Array,
    AttentionPositions,
    LayerWeights,
    LinearWeights,
    NormWeights,
    TransformerWeights,
)


def modernbert_without_graph(config: Mapping[str, Any]) -> str:
    """Say what of a ModernBERT is not known here, or nothing: rotation must be plain, the activation GELU."""
    if (activation := config.get("hidden_activation")) != "gelu":
        return f"a modernbert body with the activation {activation}"
    rotations = (config.get("rope_parameters") or {}).values()
    plain = all(rotation.get("rope_type", "default") == "default" for rotation in rotations)
    return "" if plain and not config.get("rope_scaling") else "a modernbert body with scaled rotation"


def read_modernbert(tensors: Mapping[str, Array], config: Mapping[str, Any]) -> TransformerWeights:
    """Arrange a checkpoint without objection by `modernbert_without_graph`. Raises KeyError for a lack."""
    tensors = {name.removeprefix("model."): value for name, value in tensors.items()}

    def norm(name: str) -> NormWeights:
        gain, shift = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
        return NormWeights(gain=gain, shift=shift, epsilon=config["norm_eps"])

    kinds = _modernbert_kinds(config)
    layers = []
    for index, kind in enumerate(kinds):
        name = f"layers.{index}"
        query, key, value = _split(read_linear(tensors, f"{name}.attn.Wqkv"), 3)
        up, gate = _split(read_linear(tensors, f"{name}.mlp.Wi"), 2)
        layers.append(
            LayerWeights(
                query=query,
                key=key,
                value=value,
                attention_output=read_linear(tensors, f"{name}.attn.Wo"),
                attention_norm=norm(f"{name}.attn_norm") if index else None,
                up=up,
                gate=gate,
                down=read_linear(tensors, f"{name}.mlp.Wo"),
                output_norm=norm(f"{name}.mlp_norm"),
                positions=kind,
            )
        )
    return TransformerWeights(
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


def _split(linear: LinearWeights, parts: int) -> list[LinearWeights]:
    """Part a product that computes several at once, side by side."""
    weights = np.split(linear.weight, parts, axis=1)
    biases = [None] * parts if linear.bias is None else np.split(linear.bias, parts)
    return [
        LinearWeights(weight=np.ascontiguousarray(weight), bias=bias)
        for weight, bias in zip(weights, biases, strict=True)
    ]
