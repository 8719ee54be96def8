"""A student's weights as arrays, whatever names the folder gave them.

V vocabulary, H hidden width, F feed-forward width, P positions
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Activation = Literal["Gelu", "FastGelu"]
Pooling = Literal["mean", "cls", "last"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearWeights:
    """`x @ weight + bias`: weight (in, out), bias (out,)."""

    weight: Array
    bias: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class NormWeights:
    """Layer normalisation: gain and shift (H,), and the epsilon under its root."""

    gain: Array
    shift: Array
    epsilon: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """One post-norm transformer layer: attention (H, H), feed-forward (H, F) and (F, H)."""

    query: LinearWeights
    key: LinearWeights
    value: LinearWeights
    attention_output: LinearWeights
    attention_norm: NormWeights
    up: LinearWeights
    down: LinearWeights
    output_norm: NormWeights


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseWeights:
    """A layer after pooling, with tanh or nothing behind it."""

    linear: LinearWeights
    tanh: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class BertWeights:
    """A BERT-like body and what follows it: tables (V, H) and (P, H), layers, pooling, dense layers.

    `positions` starts at the first token's row and has the segment row, if any, added in.
    """

    table: Array
    positions: Array
    embedding_norm: NormWeights
    layers: tuple[LayerWeights, ...]
    num_heads: int
    activation: Activation
    pooling: Pooling = "mean"
    dense: tuple[DenseWeights, ...] = ()

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int((self.dense[-1].linear.weight if self.dense else self.table).shape[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticWeights:
    """A token table (V, H) whose mean is the vector."""

    table: Array

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.table.shape[1])
