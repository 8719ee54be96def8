"""A student's weights as arrays, whatever names the folder gave them.

V vocabulary, H hidden width, F feed-forward width, P positions
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Activation = Literal["Gelu", "FastGelu", "Relu", "Swish"]
Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
DenseActivation = Literal["Identity", "Tanh", "ReLU", "GELU", "Sigmoid"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearWeights:
    """`x @ weight + bias`: weight (in, out), bias (out,) or none."""

    weight: Array
    bias: Array | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NormWeights:
    """Layer normalisation: gain and shift (H,), and the epsilon under its root.

    With `centred` false the mean stays where it is: RMS normalisation.
    """

    gain: Array
    shift: Array | None
    epsilon: float
    centred: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionPositions:
    """How attention learns where tokens stand, where the token's own state does not say.

    `distance_bias` (heads or 1, 2R + 1) is added to the scores, its column chosen by the distance from query to key,
    -R to R, held beyond. `frequencies` (head width / 2,) turn queries and keys by their positions (RoPE).
    """

    distance_bias: Array | None = None
    frequencies: Array | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """One transformer layer: attention (H, H), feed-forward (H, F) and (F, H), and the norm of each.

    `gate` (H, F) multiplies the activated product of `up`. `positions` names one of the body's `attention_positions`.
    """

    query: LinearWeights
    key: LinearWeights
    value: LinearWeights
    attention_output: LinearWeights
    attention_norm: NormWeights | None
    up: LinearWeights
    gate: LinearWeights | None = None
    down: LinearWeights
    output_norm: NormWeights
    positions: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseWeights:
    """A layer after pooling, and what torch calls the function behind it."""

    linear: LinearWeights
    activation: DenseActivation


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitLength:
    """A layer that brings vectors to unit length, where others follow it."""


HeadLayer = DenseWeights | NormWeights | UnitLength


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Head on a body: pooling, several ways side by side, then layers, then the first `truncate_dim` numbers."""

    pooling: tuple[Pooling, ...] = ("mean",)
    layers: tuple[HeadLayer, ...] = ()
    truncate_dim: int | None = None

    def dim(self, width: int) -> int:
        """Width of the vectors over a body of that width."""
        dense = [layer.linear.weight.shape[1] for layer in self.layers if isinstance(layer, DenseWeights)]
        full = int(dense[-1]) if dense else width * len(self.pooling)
        return min(full, self.truncate_dim or full)


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerWeights:
    """A BERT-like body: tables (V, H) and (P, H), and layers.

    `positions` starts at the first token's row and has the segment row, if any, added in. A layer normalises the sum of
    its input and its result, or with `norm_first` its input alone. `score_scale` multiplies the products of queries
    and keys; None is the usual 1 / sqrt(head width).
    """

    table: Array
    positions: Array | None
    embedding_norm: NormWeights | None
    layers: tuple[LayerWeights, ...]
    num_heads: int
    activation: Activation
    norm_first: bool = False
    final_norm: NormWeights | None = None
    score_scale: float | None = None
    attention_positions: Mapping[str, AttentionPositions] = field(default_factory=dict)
    head: Head = field(default_factory=Head)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.head.dim(int(self.table.shape[1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticWeights:
    """A token table (V, H) whose mean is the vector."""

    table: Array

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.table.shape[1])
