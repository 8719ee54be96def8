"""How a graph computes its matrix products: in float32, or in int8 with a scale for each token.

B batch, T tokens, K input width, N output width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kdserve.export.graph import GraphBuilder

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operand:
    """Names of a product's left side in a graph: `values` (B, T, K), to be multiplied by `scales` (B, T, 1) if any."""

    values: str
    scales: str | None = None


class Arithmetic(Protocol):
    """One way to compute `x @ weight`. A prepared left side serves several weights."""

    def prepare(self, graph: GraphBuilder, x: str, name: str) -> Operand:
        """Bring the left side x (B, T, K) into the form that `multiply` wants."""

    def multiply(self, graph: GraphBuilder, operand: Operand, name: str, weight: Array) -> str:
        """Multiply by `weight` (K, N): the name of a (B, T, N) float32 tensor."""


class Float32:
    """Plain matrix products. `probes` collects the name of every left side, for calibration."""

    def __init__(self) -> None:
        self.probes: dict[str, str] = {}

    def prepare(self, graph: GraphBuilder, x: str, name: str) -> Operand:
        """Leave x as it is."""
        self.probes[name] = x
        return Operand(values=x)

    def multiply(self, graph: GraphBuilder, operand: Operand, name: str, weight: Array) -> str:
        """Multiply in float32."""
        return graph.add("MatMul", operand.values, graph.constant(name, weight))


@dataclass(frozen=True, kw_only=True, slots=True)
class PerTokenInt8:
    """Each token's activations are rounded with that token's own scale, each output channel's weights with its own.

    A token never sees its neighbours' range, so a text's vector is the same, bit for bit, alone and in any batch:
    integer sums have no rounding, and everything else works row by row. `smoothing` maps the name of a left side to the
    (K,) factors that it is multiplied by, against which the weights were divided (SmoothQuant, Xiao et al. 2023).
    """

    smoothing: Mapping[str, Array] = field(default_factory=dict)

    def prepare(self, graph: GraphBuilder, x: str, name: str) -> Operand:
        """Round x to uint8 around 128, with the largest magnitude of each token on 127."""
        if name in self.smoothing:
            x = graph.add("Mul", x, graph.constant(name, self.smoothing[name]))
        largest = graph.add("ReduceMax", graph.add("Abs", x), graph.vector(-1), keepdims=1)
        largest = graph.add("Max", largest, graph.scalar(1e-20))  # a row of zeros must not become 0 / 0
        unit = graph.add("Div", x, largest)
        step, zero = graph.scalar(1 / 127), graph.scalar(128, np.uint8)
        return Operand(values=graph.add("QuantizeLinear", unit, step, zero), scales=largest)

    def multiply(self, graph: GraphBuilder, operand: Operand, name: str, weight: Array) -> str:
        """Multiply uint8 by int8 weights, sum in int32, scale back by channel and by token."""
        assert operand.scales is not None
        scales_N = np.maximum(np.abs(weight).max(axis=0) / np.float32(127), np.float32(1e-20))
        product = graph.fused(
            "MatMulIntegerToFloat",
            operand.values,
            graph.constant(name, np.rint(weight / scales_N).astype(np.int8)),
            graph.scalar(1.0),
            graph.constant(f"{name}.scales", scales_N / np.float32(127)),
            graph.scalar(128, np.uint8),
        )
        return graph.add("Mul", product, operand.scales)
