"""How a graph computes its matrix products: in float, with weights in blocks, in int8 by token or by tensor.

B batch, T tokens, K input width, N output width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Protocol

import numpy as np

from kdserve.export.graphs.builder import GraphBuilder
from kdserve.export.graphs.exact import quantize_columns
from kdserve.export.graphs.table import BLOCK, quantize_blocks, quantize_rows
from kdserve.export.read.weights import Array, LinearWeights

_ZERO_OF_BOUNDED = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Operand:
    """Names of a product's left side in a graph: `values` (B, T, K).

    Rounded ones stand for (values - zero) * step * scales, with `scales` (B, T, 1), one for all, or none.
    """

    values: str
    scales: str = ""
    zero: str = ""
    step: float = 1.0


class Arithmetic(Protocol):
    """One way to compute `x @ weight + bias`. A prepared left side serves several weights."""

    def prepare(self, graph: GraphBuilder, x: str, name: str, *, lowest: float | None = None) -> Operand:
        """Bring the left side x (B, T, K) into the form that `multiply` wants; no value is below `lowest`, if given."""

    def multiply(self, graph: GraphBuilder, operand: Operand, name: str, linear: LinearWeights) -> str:
        """Multiply by the weight (K, N) and add the bias, if there is one: the name of a (B, T, N) float32 tensor."""


class Float32:
    """Plain matrix products. `probes` collects the name of every left side, for calibration."""

    def __init__(self) -> None:
        self.probes: dict[str, str] = {}

    def prepare(self, graph: GraphBuilder, x: str, name: str, *, lowest: float | None = None) -> Operand:
        """Leave x as it is."""
        self.probes[name] = x
        return Operand(values=x)

    def multiply(self, graph: GraphBuilder, operand: Operand, name: str, linear: LinearWeights) -> str:
        """Multiply in float32."""
        product = graph.add("MatMul", operand.values, graph.constant(name, linear.weight))
        return _add_bias(graph, product, name, linear.bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class PerTokenInt8:
    """Each token's activations are rounded with that token's own scale, each output channel's weights with its own.

    A token never sees its neighbours' range, so a text's vector is the same, bit for bit, alone and in any batch:
    integer sums have no rounding, and everything else works row by row. `smoothing` maps the name of a left side to the
    (K,) factors that it is multiplied by, against which the weights were divided (SmoothQuant, Xiao et al. 2023).
    `bounds` names the left sides whose magnitude hardly changes from token to token, as behind a norm, with the largest
    that calibration found: one fixed scale serves them all as well, and saves finding each token's own. `aside` rounds
    weights beside the grid that they may come from (`quantize_columns`).
    """

    smoothing: Mapping[str, Array] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    aside: bool = False

    def prepare(self, graph: GraphBuilder, x: str, name: str, *, lowest: float | None = None) -> Operand:
        """Round x to uint8, each token's largest magnitude, or the bound of all, on the end of the range.

        Values that may have either sign lie around 128. Those with a lower bound, as after a GELU, get almost the whole
        range for their positive side, or all of it where the bound is 0. A row of zeros becomes 0 · ∞, some byte or
        other, and then 0 times its scale.
        """
        if name in self.smoothing:
            x = graph.add("Mul", x, graph.constant(name, self.smoothing[name]))
        if name in self.bounds:
            step, zero_point = self.bounds[name] / 127, graph.scalar(128, np.uint8)
            values = graph.add("QuantizeLinear", x, graph.scalar(step), zero_point)
            return Operand(values=values, zero=zero_point, step=step)
        if lowest is None:
            zero, levels = 128, 127
            largest = graph.add("ReduceMax", graph.add("Abs", x), graph.vector(-1), keepdims=1)
        elif lowest == 0:
            zero, levels, largest = 0, 255, graph.add("ReduceMax", x, graph.vector(-1), keepdims=1)
        else:
            zero, levels = _ZERO_OF_BOUNDED, 255 - _ZERO_OF_BOUNDED
            enough = graph.scalar(-lowest * levels / zero)  # the scale at which `lowest` itself lies on 0
            largest = graph.add("Max", graph.add("ReduceMax", x, graph.vector(-1), keepdims=1), enough)
        unit = graph.add("Mul", x, graph.add("Reciprocal", largest))
        zero_point = graph.scalar(zero, np.uint8)
        values = graph.add("QuantizeLinear", unit, graph.scalar(1 / levels), zero_point)
        return Operand(values=values, scales=largest, zero=zero_point, step=1 / levels)

    def multiply(self, graph: GraphBuilder, operand: Operand, name: str, linear: LinearWeights) -> str:
        """Multiply uint8 by int8 weights, sum in int32, scale back by channel and, where it has a scale, by token."""
        if not operand.scales:
            return _multiply_int8(graph, operand, graph.scalar(1.0), name, linear, aside=self.aside)
        bare = replace(linear, bias=None)
        product = _multiply_int8(graph, operand, graph.scalar(1.0), name, bare, aside=self.aside)
        return _add_bias(graph, graph.add("Mul", product, operand.scales), name, linear.bias)


class DynamicInt8:
    """onnxruntime's standard dynamic int8, but for weights that cannot saturate: one scale for all activations of a
    batch, found as the graph runs.

    A text's vector changes with its neighbours. Here to be compared with, not to be used.
    """

    def prepare(self, graph: GraphBuilder, x: str, name: str, *, lowest: float | None = None) -> Operand:
        """Round the whole of x to uint8 with one scale and one zero point."""
        values, scale, zero = graph.add_all("DynamicQuantizeLinear", x, outputs=3)
        return Operand(values=values, scales=scale, zero=zero)

    def multiply(self, graph: GraphBuilder, operand: Operand, name: str, linear: LinearWeights) -> str:
        """Multiply uint8 by int8 weights, sum in int32, scale back by channel and by the tensor's scale."""
        return _multiply_int8(graph, operand, operand.scales, name, linear)


def _multiply_int8(
    graph: GraphBuilder, operand: Operand, scale: str, name: str, linear: LinearWeights, *, aside: bool = False
) -> str:
    """Multiply by weights rounded to int8 with a scale for each output channel; `scale` is that of the left side."""
    levels_KN, scales_N = quantize_columns(linear.weight, aside=aside)
    rounded = graph.constant(name, levels_KN)
    scales = graph.constant(f"{name}.scales", scales_N * np.float32(operand.step))
    inputs = [operand.values, rounded, scale, scales, operand.zero]
    if linear.bias is not None:
        inputs += ["", graph.constant(f"{name}.bias", linear.bias)]  # between them: the weights' zero points, none
    return graph.fused("MatMulIntegerToFloat", *inputs)


def _add_bias(graph: GraphBuilder, product: str, name: str, bias: Array | None) -> str:
    return product if bias is None else graph.add("Add", product, graph.constant(f"{name}.bias", bias))


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockWeights:
    """Weights in blocks of 32 inputs with a scale each, in 8 or 4 bits; activations are rounded to int8 likewise.

    A token's blocks see that token alone, so vectors do not depend on the batch. Nearly lossless in 8 bits,
    but onnxruntime computes plain int8 more quickly.
    """

    bits: Literal[4, 8]

    def prepare(self, graph: GraphBuilder, x: str, name: str, *, lowest: float | None = None) -> Operand:
        """Leave x as it is: the operator rounds it."""
        return Operand(values=x)

    def multiply(self, graph: GraphBuilder, operand: Operand, name: str, linear: LinearWeights) -> str:
        """Multiply by weights that are unpacked block by block."""
        weight = linear.weight
        inputs, outputs = weight.shape
        num_blocks = -(-inputs // BLOCK)
        padded = np.zeros((outputs, num_blocks * BLOCK), dtype=np.float32)
        padded[:, :inputs] = weight.T
        if self.bits == 4:
            packed, scales = quantize_blocks(padded)
        else:
            rows, scales = quantize_rows(padded.reshape(-1, BLOCK))
            packed = (rows.astype(np.int16) + 128).astype(np.uint8)
        product = graph.fused(
            "MatMulNBits",
            operand.values,
            graph.constant(name, packed.reshape(outputs, num_blocks, -1)),
            graph.constant(f"{name}.scales", scales.reshape(outputs, num_blocks)),
            K=inputs,
            N=outputs,
            bits=self.bits,
            block_size=BLOCK,
            accuracy_level=4,
        )
        return _add_bias(graph, product, name, linear.bias)


UNCALIBRATED: Mapping[str, Callable[[], Arithmetic]] = {
    "float32": Float32,
    "batch-int8": DynamicInt8,
    "blocks-8": partial(BlockWeights, bits=8),
    "blocks-4": partial(BlockWeights, bits=4),
}
"""Maker of each arithmetic by name; int8 by token is not here, as it is calibrated on texts."""
