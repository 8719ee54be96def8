"""Integer products that are exact on every CPU.

x86 CPUs without VNNI multiply uint8 by int8 with VPMADDUBSW, which adds the products of rows 2i and 2i + 1 of a column
in 16 bits and stops at 32,767 and -32,768. Activations reach 255, so two weights that add up to at most 128 in
magnitude stay within (255 · 128 = 32,640, but 255 · 129 = 32,895); two of opposite signs always do. Weights are
rounded under that bound, after channels were ordered and signs chosen so that it seldom binds: large weights meet
small ones, or ones of the other sign.

K input width, N output width, F factors to try
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from scipy.optimize import linear_sum_assignment

from kdserve.errors import FidelityError
from kdserve.export.read.weights import Array, LayerWeights, LinearWeights, TransformerWeights
from kdserve.runtime.saturation import EXACT_MARK

PAIR_LIMIT = 128
_LEVELS = np.float32(127)
_SMALLEST = np.float32(1e-20)
_FACTORS = np.array([1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 1.05, 1.1, 1.2, 1.35, 1.5, 2.0], dtype=np.float32)
"""Scales to try, as multiples of the one that puts a column's largest weight on 127; at 2 no pair needs the bound."""


def quantize_columns(weight_KN: Array, *, aside: bool = False) -> tuple[npt.NDArray[np.int8], Array]:
    """Round to -127..127 times a scale for each column, pairs within the bound: (K, N) int8 and (N,) float32.

    Of several scales each column takes the one with the least squared error. Weights that were read back from a bundle
    and trained on lie a fraction of a step from its levels, and the least error is what takes them back there, and what
    they learnt away; with `aside` each column takes its second best scale.
    """
    largest_N = np.maximum(np.abs(weight_KN).max(axis=0) / _LEVELS, _SMALLEST)
    levels = weight_KN / largest_N
    errors_FN = [np.square(_round(levels / factor) * factor - levels).sum(axis=0) for factor in _FACTORS]
    factor_N = _FACTORS[np.argsort(errors_FN, axis=0, kind="stable")[int(aside)]]
    return _round(levels / factor_N).astype(np.int8), largest_N * factor_N


def _round(levels_KN: Array) -> Array:
    """Round to whole levels and take what a pair has too much from both alike."""
    rounded = np.clip(np.rint(levels_KN), -_LEVELS, _LEVELS)
    pairs = rounded[: len(rounded) // 2 * 2].reshape(-1, 2, rounded.shape[1])
    sums = pairs.sum(axis=1)
    excess = np.sign(sums) * np.maximum(np.abs(sums) - PAIR_LIMIT, 0)
    half = np.trunc(excess / 2)
    pairs[:, 0] -= half
    pairs[:, 1] -= excess - half
    return rounded


def order_channels(weights: TransformerWeights) -> TransformerWeights:
    """Order the channels inside each layer so that large weights of the product that reads them meet small ones.

    The product that makes them gives them in that order: nothing changes, and nothing is added to a graph.
    """
    return replace(weights, layers=tuple(_order_layer(layer, weights.num_heads) for layer in weights.layers))


def _order_layer(layer: LayerWeights, num_heads: int) -> LayerWeights:
    raised = _pair_order(_levels(layer.down.weight))
    heads = np.split(_levels(layer.attention_output.weight), num_heads)
    context = np.concatenate([_pair_order(head) + len(head) * i for i, head in enumerate(heads)])
    return replace(
        layer,
        value=_columns(layer.value, context),
        attention_output=replace(layer.attention_output, weight=layer.attention_output.weight[context]),
        up=_columns(layer.up, raised),
        gate=None if layer.gate is None else _columns(layer.gate, raised),
        down=replace(layer.down, weight=layer.down.weight[raised]),
    )


def _columns(linear: LinearWeights, order: npt.NDArray[np.intp]) -> LinearWeights:
    return LinearWeights(weight=linear.weight[:, order], bias=None if linear.bias is None else linear.bias[order])


def _pair_order(levels_KN: Array) -> npt.NDArray[np.intp]:
    """Match each of the heavier rows with a lighter one at the least excess, and return the rows' new order (K,)."""
    weight_K = np.square(np.maximum(np.abs(levels_KN) - PAIR_LIMIT / 2, 0)).sum(axis=1)
    heavy, light = np.array_split(np.argsort(-weight_K, kind="stable"), 2)
    cost = np.stack([_excess(levels_KN[light] + levels_KN[row]) for row in heavy])
    firsts, seconds = linear_sum_assignment(cost)
    pairs = np.stack([heavy[firsts], light[seconds]], axis=1).reshape(-1)
    return np.concatenate([pairs, np.setdiff1d(heavy, pairs)])


def pair_signs(weight_KN: Array) -> Array:
    """Return signs (K,): turning rows over by them, and their activations too, leaves the least excess in pairs."""
    levels = _levels(weight_KN)
    even = len(levels) // 2 * 2
    first, second = levels[:even:2], levels[1:even:2]
    signs = np.ones(len(levels), dtype=np.float32)
    signs[1:even:2] = np.where(_excess(first - second) < _excess(first + second), -1, 1)
    return signs


def _levels(weight_KN: Array) -> Array:
    levels: Array = weight_KN * (_LEVELS / np.maximum(np.abs(weight_KN).max(axis=0), _SMALLEST))
    return levels


def _excess(sums_KN: Array) -> Array:
    excess: Array = np.square(np.maximum(np.abs(sums_KN) - PAIR_LIMIT, 0)).sum(axis=1)
    return excess


def require_exact_products(model: onnx.ModelProto) -> None:
    """Check every integer product of a finished graph against the bound, and write into it that they hold.

    Raises:
        FidelityError: a product's sums could exceed 16 bits, or are of a kind that is not known here.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if _is_integer_product(node)]
    for node in products:
        by_rows = node.op_type == "QGemm" and any(part.name == "transB" and part.i for part in node.attribute)
        tensor = weights.get(node.input[3 if by_rows else 1])
        if not (by_rows or node.op_type.startswith("MatMulInteger")) or tensor is None:
            raise FidelityError(f"{node.op_type} {node.output[0]} is an integer product that no check covers")
        levels = numpy_helper.to_array(tensor)
        levels = levels.T if by_rows else levels
        if levels.dtype != np.int8:
            raise FidelityError(f"the weights {tensor.name} are {levels.dtype}; integer products need int8")
        even = levels[: len(levels) // 2 * 2].astype(np.int16).reshape(-1, 2, levels.shape[-1])
        if np.abs(even.sum(axis=1)).max(initial=0) > PAIR_LIMIT:
            raise FidelityError(f"the weights {tensor.name} could saturate on CPUs without VNNI; this is our mistake")
    if products:
        model.metadata_props.add(key=EXACT_MARK, value=str(PAIR_LIMIT))


def _is_integer_product(node: onnx.NodeProto) -> bool:
    known = ("MatMulInteger", "ConvInteger", "QLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention")
    return node.op_type.startswith((*known, "QGemm", "QMoE"))
