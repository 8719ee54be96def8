"""A student whose encoder is of the BERT kind, as a model that CTranslate2 opens.

CTranslate2 has all of it but what BERT and RoBERTa put between the last decoder layer and the output table: a dense
layer, an activation and a norm. A third layer computes just that: its attentions give nothing, its first norm leaves
what is normalised as it is, the second has the last layer's gain and shift, and in its feed-forward
gelu(x) - gelu(-x) = x takes the residual away. In float32 outputs are ours, token for token. `bare` leaves the layer
out, for speed alone: what it writes means nothing.

H hidden width, F feed-forward width
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdserve.export.read.weights import LayerWeights, LinearWeights, NormWeights
from kdserve.export.sequence.student import SequenceStudent
from kdserve.export.sequence.weights import AttentionWeights, DecoderLayer, OutputTransform


def write_model(student: SequenceStudent, folder: Path, *, bare: bool = False) -> None:
    """Write the model in int8; its tokens are named by their ids."""
    from ctranslate2.specs import TransformerSpec, common_spec

    weights, decoder = student.weights, student.weights.decoder
    assert decoder.transform is not None
    assert weights.encoder.activation == decoder.activation == "Gelu"
    layers = (
        decoder.layers
        if bare
        else (*decoder.layers[:-1], *layers_with_transform(decoder.layers[-1], decoder.transform))
    )
    spec = TransformerSpec.from_config(
        (len(weights.encoder.layers), len(layers)),
        decoder.num_heads,
        pre_norm=False,
        activation=common_spec.Activation.GELU,
        layernorm_embedding=True,
    )
    ids = list(student.tokenizers.source_ids)
    table = weights.encoder.table[ids] if ids else weights.encoder.table
    spec.encoder.embeddings[0].weight = table
    spec.decoder.embeddings.weight = decoder.table
    spec.decoder.projection.weight = decoder.output
    if decoder.output_bias is not None:
        spec.decoder.projection.bias = decoder.output_bias
    for side, own in ((spec.encoder, weights.encoder), (spec.decoder, decoder)):
        side.scale_embeddings = False
        side.position_encodings.encodings = own.positions
        _norm(side.layernorm_embedding, own.embedding_norm)
    for target, layer in zip(spec.encoder.layer, weights.encoder.layers, strict=True):
        _encoder_layer(target, layer)
    for target, own in zip(spec.decoder.layer, layers, strict=True):
        _decoder_layer(target, own)
    spec.register_source_vocabulary([str(number) for number in range(len(table))])
    spec.register_target_vocabulary([str(number) for number in range(len(decoder.output))])
    generation = student.generation
    spec.config.eos_token = spec.config.bos_token = str(generation.end_ids[0])
    spec.config.decoder_start_token = spec.config.unk_token = str(generation.start_id)
    spec.config.layer_norm_epsilon = decoder.layers[0].output_norm.epsilon
    spec.validate()
    spec.optimize(quantization="int8")
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def layers_with_transform(last: DecoderLayer, transform: OutputTransform) -> tuple[DecoderLayer, DecoderLayer]:
    """The last layer without its gain and shift, and the layer that stands for the transform."""
    width = len(last.output_norm.gain)
    one, zero = np.eye(width, dtype=np.float32), np.zeros(width, np.float32)
    plain = replace(last.output_norm, gain=np.ones(width, np.float32), shift=zero)
    nothing = LinearWeights(weight=np.zeros((width, width), np.float32), bias=zero)
    attention = AttentionWeights(query=nothing, key=nothing, value=nothing, output=nothing)
    bias = zero if transform.linear.bias is None else transform.linear.bias
    up = LinearWeights(weight=np.hstack([transform.linear.weight, one, -one]), bias=np.concatenate([bias, zero, zero]))
    layer = DecoderLayer(
        attention=attention,
        attention_norm=plain,
        cross=attention,
        cross_norm=last.output_norm,
        up=up,
        gate=None,
        down=LinearWeights(weight=np.vstack([one, -one, one]), bias=zero),
        output_norm=transform.norm,
    )
    return replace(last, output_norm=plain), layer


def _encoder_layer(target: Any, layer: LayerWeights) -> None:
    _linear(target.self_attention.linear[0], layer.query, layer.key, layer.value)
    _linear(target.self_attention.linear[1], layer.attention_output)
    _norm(target.self_attention.layer_norm, layer.attention_norm)
    _feed_forward(target.ffn, layer)


def _decoder_layer(target: Any, layer: DecoderLayer) -> None:
    own, cross = layer.attention, layer.cross
    _linear(target.self_attention.linear[0], own.query, own.key, own.value)
    _linear(target.self_attention.linear[1], own.output)
    _norm(target.self_attention.layer_norm, layer.attention_norm)
    _linear(target.attention.linear[0], cross.query)
    _linear(target.attention.linear[1], cross.key, cross.value)
    _linear(target.attention.linear[2], cross.output)
    _norm(target.attention.layer_norm, layer.cross_norm)
    _feed_forward(target.ffn, layer)


def _feed_forward(target: Any, layer: LayerWeights | DecoderLayer) -> None:
    _linear(target.linear_0, layer.up)
    _linear(target.linear_1, layer.down)
    _norm(target.layer_norm, layer.output_norm)


def _linear(target: Any, *parts: LinearWeights) -> None:
    target.weight = np.ascontiguousarray(np.concatenate([part.weight for part in parts], axis=1).T)
    target.bias = np.concatenate([np.zeros(p.weight.shape[1], np.float32) if p.bias is None else p.bias for p in parts])


def _norm(target: Any, norm: NormWeights | None) -> None:
    assert norm is not None
    assert norm.shift is not None
    target.gamma, target.beta = norm.gain, norm.shift
