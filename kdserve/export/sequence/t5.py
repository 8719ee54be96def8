"""From the tensors of T5, mT5 and UMT5 checkpoints to one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdserve.export.read.t5 import T5_ACTIVATIONS, read_t5, shared_table
from kdserve.export.read.weights import Array
from kdserve.export.sequence.weights import (
    AttentionWeights,
    DecoderLayer,
    DecoderWeights,
    SequenceWeights,
    linear_of,
    norm_of,
    output_table,
)


def read_t5_pair(tensors: Mapping[str, Array], config: Mapping[str, Any]) -> SequenceWeights:
    """Arrange the tensors of a checkpoint that `t5_without_graph` has nothing against. Raises KeyError for a lack."""
    table = shared_table(tensors)
    linear, norm = linear_of(tensors), norm_of(tensors, config["layer_norm_epsilon"])
    gated = config["feed_forward_proj"] == "gated-gelu"

    def attention(name: str) -> AttentionWeights:
        parts = {"query": "q", "key": "k", "value": "v", "output": "o"}
        return AttentionWeights(**{part: linear(f"{name}.{theirs}") for part, theirs in parts.items()})

    def layer(block: str) -> DecoderLayer:
        feed_forward = f"{block}.2.DenseReluDense"
        return DecoderLayer(
            attention=attention(f"{block}.0.SelfAttention"),
            attention_norm=norm(f"{block}.0.layer_norm"),
            cross=attention(f"{block}.1.EncDecAttention"),
            cross_norm=norm(f"{block}.1.layer_norm"),
            up=linear(f"{feed_forward}.{'wi_0' if gated else 'wi'}"),
            gate=linear(f"{feed_forward}.wi_1") if gated else None,
            down=linear(f"{feed_forward}.wo"),
            output_norm=norm(f"{block}.2.layer_norm"),
        )

    blocks = [f"decoder.block.{i}.layer" for i in range(config["num_decoder_layers"])]
    biases = [f"{block}.0.SelfAttention.relative_attention_bias.weight" for block in blocks]
    scaled = config.get("scale_decoder_outputs", False)
    decoder = DecoderWeights(
        table=table,
        output=output_table(tensors, "lm_head.weight", table),
        output_bias=None,
        table_scale=1.0,
        output_scale=float(config["d_model"]) ** -0.5 if scaled else 1.0,
        positions=None,
        distance_biases=tuple(_backward_bias(tensors[name], config) for name in biases if name in tensors),
        embedding_norm=None,
        layers=tuple(layer(block) for block in blocks),
        final_norm=norm("decoder.final_layer_norm"),
        transform=None,
        num_heads=config["num_heads"],
        activation=T5_ACTIVATIONS[config["feed_forward_proj"]],
        norm_first=True,
        score_scale=1.0,
    )
    return SequenceWeights(encoder=read_t5(tensors, config), table_scale=1.0, bridge=None, decoder=decoder)


def _backward_bias(table: Array, config: Mapping[str, Any]) -> Array:
    """Spread a table (buckets, heads) over the distances back to a key: (heads, R + 1), the last for all beyond."""
    reach = config.get("relative_attention_max_distance", 128)
    exact, distances = len(table) // 2, np.arange(reach + 1)
    far = np.log(np.maximum(distances, 1).astype(np.float32) / exact) / np.log(reach / exact) * (len(table) - exact)
    buckets = np.where(distances < exact, distances, np.minimum(exact + far.astype(np.int64), len(table) - 1))
    return np.ascontiguousarray(table[buckets].T)
