"""From the tensors of BART, mBART, Marian, M2M100 and NLLB checkpoints to one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdserve.export.read.weights import Activation, Array, LayerWeights, NormWeights, TransformerWeights
from kdserve.export.sequence.weights import (
    AttentionWeights,
    DecoderLayer,
    DecoderWeights,
    SequenceWeights,
    linear_of,
    norm_of,
    output_table,
)

BART_FAMILIES = ("bart", "mbart", "marian", "m2m_100")
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "Gelu",
    "gelu_new": "FastGelu",
    "gelu_fast": "FastGelu",
    "gelu_pytorch_tanh": "FastGelu",
    "relu": "Relu",
    "silu": "Swish",
    "swish": "Swish",
}
_EPSILON = 1e-5  # torch's own, which these families leave as it is
_NORM_FIRST = {"mbart", "m2m_100"}
_OFFSET = 2  # BART and mBART leave the first rows of their positions unused


def bart_without_graph(config: Mapping[str, Any]) -> str:
    """Say what of a checkpoint is not known here, or nothing."""
    if (activation := config["activation_function"]) not in ACTIVATIONS:
        return f"the activation {activation}"
    return ""


def read_bart(tensors: Mapping[str, Array], config: Mapping[str, Any], *, start_id: int) -> SequenceWeights:
    """Arrange the tensors of a checkpoint without objection by `bart_without_graph`. Raises KeyError for a lack."""
    family = config["model_type"]
    tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
    linear, norm = linear_of(tensors), norm_of(tensors, _EPSILON)
    table = _table(tensors, "encoder")
    own = _table(tensors, "decoder")
    own = table if np.array_equal(own, table) else own
    scale = float(np.sqrt(config["d_model"])) if config["scale_embedding"] else 1.0

    def optional_norm(name: str) -> NormWeights | None:
        return norm(name) if f"{name}.weight" in tensors else None

    def attention(name: str) -> AttentionWeights:
        parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
        return AttentionWeights(**{part: linear(f"{name}.{theirs}") for part, theirs in parts.items()})

    def encoder_layer(name: str) -> LayerWeights:
        own = attention(f"{name}.self_attn")
        return LayerWeights(
            query=own.query,
            key=own.key,
            value=own.value,
            attention_output=own.output,
            attention_norm=norm(f"{name}.self_attn_layer_norm"),
            up=linear(f"{name}.fc1"),
            down=linear(f"{name}.fc2"),
            output_norm=norm(f"{name}.final_layer_norm"),
        )

    def decoder_layer(name: str) -> DecoderLayer:
        return DecoderLayer(
            attention=attention(f"{name}.self_attn"),
            attention_norm=norm(f"{name}.self_attn_layer_norm"),
            cross=attention(f"{name}.encoder_attn"),
            cross_norm=norm(f"{name}.encoder_attn_layer_norm"),
            up=linear(f"{name}.fc1"),
            gate=None,
            down=linear(f"{name}.fc2"),
            output_norm=norm(f"{name}.final_layer_norm"),
        )

    encoder = TransformerWeights(
        table=table,
        positions=_positions(tensors, config, "encoder"),
        embedding_norm=optional_norm("encoder.layernorm_embedding"),
        layers=tuple(encoder_layer(f"encoder.layers.{i}") for i in range(config["encoder_layers"])),
        num_heads=config["encoder_attention_heads"],
        activation=ACTIVATIONS[config["activation_function"]],
        norm_first=family in _NORM_FIRST,
        final_norm=optional_norm("encoder.layer_norm"),
    )
    bias = tensors.get("final_logits_bias")
    decoder = DecoderWeights(
        table=own,
        output=output_table(tensors, "lm_head.weight", own),
        output_bias=None if bias is None or not bias.any() else bias.reshape(-1),
        table_scale=scale,
        output_scale=1.0,
        positions=_first_row_of_start(_positions(tensors, config, "decoder"), config, start_id),
        distance_biases=(),
        embedding_norm=optional_norm("decoder.layernorm_embedding"),
        layers=tuple(decoder_layer(f"decoder.layers.{i}") for i in range(config["decoder_layers"])),
        final_norm=optional_norm("decoder.layer_norm"),
        transform=None,
        num_heads=config["decoder_attention_heads"],
        activation=ACTIVATIONS[config["activation_function"]],
        norm_first=family in _NORM_FIRST,
        score_scale=None,
    )
    return SequenceWeights(encoder=encoder, table_scale=scale, bridge=None, decoder=decoder)


def _table(tensors: Mapping[str, Array], side: str) -> Array:
    """Checkpoints store a table that several parts share once, under any of its names."""
    names = (f"{side}.embed_tokens.weight", "shared.weight", "lm_head.weight")
    others = ("decoder.embed_tokens.weight", "encoder.embed_tokens.weight")
    return tensors[next((name for name in (*names, *others) if name in tensors), "shared.weight")]


def _positions(tensors: Mapping[str, Array], config: Mapping[str, Any], side: str) -> Array:
    family, width, name = config["model_type"], config["d_model"], f"{side}.embed_positions.weight"
    if family == "marian":  # older checkpoints store them, and transformers takes them from there
        return tensors[name] if name in tensors else _marian_sinusoids(config["max_position_embeddings"], width)
    if family == "m2m_100":
        return _m2m_sinusoids(config["max_position_embeddings"] + _OFFSET, width)[config["pad_token_id"] + 1 :]
    return tensors[name][_OFFSET:]


def _first_row_of_start(positions: Array, config: Mapping[str, Any], start_id: int) -> Array:
    """M2M100 gives padding no position, not even where an output starts with it."""
    if config["model_type"] != "m2m_100" or start_id != config["pad_token_id"]:
        return positions
    return np.concatenate([np.zeros_like(positions[:1]), positions[1:]])


def _marian_sinusoids(num_positions: int, width: int) -> Array:
    """Sines in the first half, cosines in the second (transformers, modeling_marian.py)."""
    exponents = 2 * (np.arange(width) // 2) / width
    angles = np.arange(num_positions)[:, None] / np.power(10000, exponents)
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1).astype(np.float32)


def _m2m_sinusoids(num_positions: int, width: int) -> Array:
    """As tensor2tensor has them, in float32 throughout (transformers, modeling_m2m_100.py)."""
    half = width // 2
    step = np.float32(np.log(10000) / (half - 1))
    frequencies = np.exp(np.arange(half, dtype=np.float32) * -step)
    angles = np.arange(num_positions, dtype=np.float32)[:, None] * frequencies
    sides = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    return np.pad(sides, ((0, 0), (0, width % 2)))
