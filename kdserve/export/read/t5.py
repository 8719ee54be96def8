"""From the tensors of T5 encoders, which normalise before each part, to one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdserve.export.read.distances import bucketed_bias
from kdserve.export.read.linear import read_linear
from kdserve.export.read.weights import (
    Activation,
    Array,
    AttentionPositions,
    LayerWeights,
    NormWeights,
    TransformerWeights,
)

T5_FAMILIES = {"t5", "mt5", "umt5"}
T5_ACTIVATIONS: dict[str, Activation] = {"relu": "Relu", "gated-gelu": "FastGelu"}


def t5_without_graph(config: Mapping[str, Any]) -> str:
    """Say what of a T5-like encoder is not known here, or nothing."""
    kind = config.get("feed_forward_proj")
    return "" if kind in T5_ACTIVATIONS else f"a {config['model_type']} body with the feed-forward part {kind}"


def read_t5(tensors: Mapping[str, Array], config: Mapping[str, Any]) -> TransformerWeights:
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
                query=read_linear(tensors, f"{attention}.q"),
                key=read_linear(tensors, f"{attention}.k"),
                value=read_linear(tensors, f"{attention}.v"),
                attention_output=read_linear(tensors, f"{attention}.o"),
                attention_norm=norm(f"{block}.0.layer_norm.weight"),
                up=read_linear(tensors, f"{feed_forward}.{'wi_0' if gated else 'wi'}"),
                gate=read_linear(tensors, f"{feed_forward}.wi_1") if gated else None,
                down=read_linear(tensors, f"{feed_forward}.wo"),
                output_norm=norm(f"{block}.1.layer_norm.weight"),
                positions=list(biases)[-1],
            )
        )
    return TransformerWeights(
        table=shared_table(tensors),
        positions=None,
        embedding_norm=None,
        layers=tuple(layers),
        num_heads=config["num_heads"],
        activation=T5_ACTIVATIONS[config["feed_forward_proj"]],
        norm_first=True,
        final_norm=norm("encoder.final_layer_norm.weight"),
        score_scale=1.0,
        attention_positions=biases,
    )


def shared_table(tensors: Mapping[str, Array]) -> Array:
    """Return the token table of all parts, which checkpoints store under either of two names."""
    return tensors["shared.weight" if "shared.weight" in tensors else "encoder.embed_tokens.weight"]
