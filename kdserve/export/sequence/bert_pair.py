"""From the tensors of transformers' EncoderDecoderModel to one set of weights: an encoder of the BERT kind, a decoder
of BERT or RoBERTa with cross-attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdserve.export.read.bert import FAMILIES, POSITIONS_AFTER_PADDING
from kdserve.export.read.families import body_without_graph, read_body
from kdserve.export.read.weights import Array
from kdserve.export.sequence.bart import ACTIVATIONS
from kdserve.export.sequence.weights import (
    AttentionWeights,
    DecoderLayer,
    DecoderWeights,
    OutputTransform,
    SequenceWeights,
    linear_of,
    norm_of,
    output_table,
)

_HEADS = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions"),
    **dict.fromkeys(("roberta", "xlm-roberta"), ("lm_head.dense", "lm_head.layer_norm", "lm_head")),
}
"""What stands behind the last layer of a decoder: a layer, its norm, and what holds the output table and its bias."""


def bert_pair_without_graph(config: Mapping[str, Any]) -> str:
    """Say what of a checkpoint is not known here, or nothing."""
    encoder, decoder = config["encoder"], config["decoder"]
    if encoder["model_type"] not in FAMILIES:
        return f"an encoder of the family {encoder['model_type']}"
    if found := body_without_graph(encoder):
        return found
    if (family := decoder["model_type"]) not in _HEADS:
        return f"a decoder of the family {family}"
    if (activation := decoder["hidden_act"]) not in ACTIVATIONS:
        return f"a decoder with the activation {activation}"
    if (kind := decoder.get("position_embedding_type") or "absolute") != "absolute":
        return f"a decoder with {kind} positions"
    return "" if decoder.get("add_cross_attention") else "a decoder without cross-attention"


def read_bert_pair(tensors: Mapping[str, Array], config: Mapping[str, Any], *, start_id: int) -> SequenceWeights:
    """Arrange what `bert_pair_without_graph` has nothing against. Raises KeyError for a lack."""
    encoder = {name.removeprefix("encoder."): value for name, value in tensors.items() if name.startswith("encoder.")}
    bridge = linear_of(tensors)("enc_to_dec_proj") if "enc_to_dec_proj.weight" in tensors else None
    return SequenceWeights(
        encoder=read_body(encoder, config["encoder"]),
        table_scale=1.0,
        bridge=bridge,
        decoder=_read_decoder(tensors, config["decoder"], start_id),
    )


def _read_decoder(tensors: Mapping[str, Array], config: Mapping[str, Any], start_id: int) -> DecoderWeights:
    family = config["model_type"]
    prefix = "bert." if family == "bert" else "roberta."
    own = {
        name.removeprefix("decoder.").removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith("decoder.")
    }
    linear, norm = linear_of(own), norm_of(own, config["layer_norm_eps"])
    dense, dense_norm, head = _HEADS[family]
    table = own["embeddings.word_embeddings.weight"]
    bias = own.get(f"{head}.bias", own.get(f"{head}.decoder.bias"))

    def attention(name: str) -> AttentionWeights:
        parts = {part: linear(f"{name}.self.{part}") for part in ("query", "key", "value")}
        return AttentionWeights(**parts, output=linear(f"{name}.output.dense"))

    def layer(name: str) -> DecoderLayer:
        return DecoderLayer(
            attention=attention(f"{name}.attention"),
            attention_norm=norm(f"{name}.attention.output.LayerNorm"),
            cross=attention(f"{name}.crossattention"),
            cross_norm=norm(f"{name}.crossattention.output.LayerNorm"),
            up=linear(f"{name}.intermediate.dense"),
            gate=None,
            down=linear(f"{name}.output.dense"),
            output_norm=norm(f"{name}.output.LayerNorm"),
        )

    activation = ACTIVATIONS[config["hidden_act"]]
    return DecoderWeights(
        table=table,
        output=output_table(own, f"{head}.decoder.weight", table),
        output_bias=None if bias is None or not bias.any() else bias,
        table_scale=1.0,
        output_scale=1.0,
        positions=_positions(own, config, start_id),
        distance_biases=(),
        embedding_norm=norm("embeddings.LayerNorm"),
        layers=tuple(layer(f"encoder.layer.{i}") for i in range(config["num_hidden_layers"])),
        final_norm=None,
        transform=OutputTransform(
            linear=linear(dense), activation=activation if family == "bert" else "Gelu", norm=norm(dense_norm)
        ),
        num_heads=config["num_attention_heads"],
        activation=activation,
        norm_first=False,
        score_scale=None,
    )


def _positions(own: Mapping[str, Array], config: Mapping[str, Any], start_id: int) -> Array:
    """RoBERTa counts from behind the padding's row, and gives that one to padding, even where an output starts with it.

    The row of the first segment is added in.
    """
    positions = own["embeddings.position_embeddings.weight"]
    if config["model_type"] in POSITIONS_AFTER_PADDING:
        padding = config["pad_token_id"]
        first = positions[padding : padding + 1] if start_id == padding else positions[padding + 1 : padding + 2]
        positions = np.concatenate([first, positions[padding + 2 :]])
    segments = own.get("embeddings.token_type_embeddings.weight")
    return positions if segments is None else positions + segments[0]
