"""An encoder-decoder's weights as arrays, whatever names the folder gave them.

V vocabulary, H hidden width, F feed-forward width, P positions, R reach of a bias
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from kdserve.export.read.linear import read_linear
from kdserve.export.read.weights import Activation, Array, LinearWeights, NormWeights, TransformerWeights


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionWeights:
    """One attention: the key and value of a cross-attention read the encoder's states."""

    query: LinearWeights
    key: LinearWeights
    value: LinearWeights
    output: LinearWeights


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderLayer:
    """Self-attention, cross-attention and feed-forward, and the norm of each; `gate` (H, F) multiplies what is up."""

    attention: AttentionWeights
    attention_norm: NormWeights
    cross: AttentionWeights
    cross_norm: NormWeights
    up: LinearWeights
    gate: LinearWeights | None
    down: LinearWeights
    output_norm: NormWeights


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputTransform:
    """What BERT and RoBERTa put between the last layer and the output table."""

    linear: LinearWeights
    activation: Activation
    norm: NormWeights


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderWeights:
    """A decoder: `table` (V, H) of what it reads, `output` (V, H) of what it writes, often the same array.

    `positions` (P, H) starts at the first token's row. `distance_biases` (heads, R + 1), one for all layers or one
    each, are added to the scores of the self-attention by the distance from query back to key, held beyond R. A layer
    normalises the sum of its input and its result, or with `norm_first` its input alone. `score_scale` multiplies the
    products of queries and keys; None is the usual 1 / sqrt(head width). `table_scale` and `output_scale` multiply what
    is read and the last state.
    """

    table: Array
    output: Array
    output_bias: Array | None
    table_scale: float
    output_scale: float
    positions: Array | None
    distance_biases: tuple[Array, ...]
    embedding_norm: NormWeights | None
    layers: tuple[DecoderLayer, ...]
    final_norm: NormWeights | None
    transform: OutputTransform | None
    num_heads: int
    activation: Activation
    norm_first: bool
    score_scale: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceWeights:
    """An encoder with its table, whose rows are multiplied by `table_scale`, and the decoder over it.

    `bridge` brings the encoder's width to the decoder's, where they differ.
    """

    encoder: TransformerWeights
    table_scale: float
    bridge: LinearWeights | None
    decoder: DecoderWeights

    @property
    def shares_table(self) -> bool:
        """Whether the encoder reads the table that the decoder writes by."""
        return self.encoder.table is self.decoder.output


def linear_of(tensors: Mapping[str, Array]) -> Callable[[str], LinearWeights]:
    """Return what reads a linear layer by its name."""
    return partial(read_linear, tensors)


def norm_of(tensors: Mapping[str, Array], epsilon: float) -> Callable[[str], NormWeights]:
    """Return what reads a norm by its name; one without a bias does not take the mean away (T5)."""

    def norm(name: str) -> NormWeights:
        shift = tensors.get(f"{name}.bias")
        return NormWeights(gain=tensors[f"{name}.weight"], shift=shift, epsilon=epsilon, centred=shift is not None)

    return norm


def output_table(tensors: Mapping[str, Array], name: str, table: Array) -> Array:
    """Return the table that a decoder writes by: `table` itself, unless the checkpoint stores another of that name."""
    stored = tensors.get(name)
    return table if stored is None or np.array_equal(stored, table) else stored
