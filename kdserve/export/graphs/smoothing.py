"""Move the outliers of activations into the weights before both are rounded to int8.

SmoothQuant (Xiao et al. 2023, arXiv:2211.10438): a left side's channel k is divided by
s_k = max|x_k|^alpha / max|w_k|^(1 - alpha), the weights' row k multiplied by it. The feed-forward's second product
keeps its left side as it is: smoothing there cost fidelity on every exponent, and a pass over the widest tensor. Some
factors are negative, for the sake of pairs of weights (`pairs`).

K input width
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from kdserve.datatypes import Embeddings, TokenBatch
from kdserve.export.graphs.arithmetic import Arithmetic, Float32, PerTokenInt8
from kdserve.export.graphs.exact import order_channels, pair_signs
from kdserve.export.graphs.transformer import transformer_graph
from kdserve.export.read.weights import LayerWeights, LinearWeights, NormWeights, TransformerWeights
from kdserve.precisions import TableBits
from kdserve.runtime.session import open_graph

Array = npt.NDArray[np.float32]
_ALPHAS = (0.4, 0.5, 0.6, 0.7, 0.8)
_SMALLEST = np.float32(1e-5)


Write = Callable[[TransformerWeights, Arithmetic, TableBits], onnx.ModelProto]
"""Writes the graph of a body with an arithmetic and a table in so many bits."""
Look = Callable[[onnx.ModelProto, Iterable[TokenBatch]], Array]
"""What a graph makes of texts, rows of unit length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothedGraph:
    """The int8 graph with the best exponent, and its mean cosine to float32 on the development texts.

    `aside` says whether its weights are rounded beside the grid that they may come from.
    """

    model: onnx.ModelProto
    alpha: float
    aside: bool
    development_cosine: float


def smoothed_int8_graph(
    weights: TransformerWeights, *, ranges: list[TokenBatch], development: list[TokenBatch], table_bits: TableBits
) -> SmoothedGraph:
    """Write the per-token int8 graph, chosen on the development texts: its smoothing exponent, then where to round."""

    def write(body: TransformerWeights, arithmetic: Arithmetic, bits: TableBits) -> onnx.ModelProto:
        return transformer_graph(body, arithmetic, table_bits=bits)

    return best_smoothing(weights, write, _embed, ranges=ranges, development=development, table_bits=table_bits)


def best_smoothing(
    weights: TransformerWeights,
    write: Write,
    look: Look,
    *,
    ranges: list[TokenBatch],
    development: list[TokenBatch],
    table_bits: TableBits,
) -> SmoothedGraph:
    """Write an int8 graph around a body with the exponent, then the rounding, under which `look` sees least of it."""
    weights = order_channels(weights)
    arithmetic = Float32()
    reference = write(weights, arithmetic, 32)
    largest = _largest_magnitudes(reference, arithmetic.probes, ranges)
    target = look(reference, development)

    def attempt(alpha: float, *, aside: bool) -> SmoothedGraph:
        moved, factors, bounds = smooth(weights, largest, alpha)
        model = write(moved, PerTokenInt8(smoothing=factors, bounds=bounds, aside=aside), table_bits)
        cosine = float(np.mean(np.sum(target * look(model, development), axis=1)))
        return SmoothedGraph(model=model, alpha=alpha, aside=aside, development_cosine=cosine)

    best = max((attempt(alpha, aside=False) for alpha in _ALPHAS), key=_cosine)
    return max(best, attempt(best.alpha, aside=True), key=_cosine)


def _cosine(graph: SmoothedGraph) -> float:
    return graph.development_cosine


def smooth(
    weights: TransformerWeights, largest: Mapping[str, Array], alpha: float
) -> tuple[TransformerWeights, dict[str, Array], dict[str, float]]:
    """Return the weights with outliers moved in, the factors by which the graph multiplies each left side, and bounds.

    The attention's output needs no factors in the graph: they go into the weights that make its values. Nor does a
    left side that comes from a norm and goes nowhere else. Bounds, the largest smoothed magnitudes, are given for left
    sides behind a norm, where they hold for all tokens alike.
    """
    factors: dict[str, Array] = {}
    bounds: dict[str, float] = {}
    layers = []
    for index, layer in enumerate(weights.layers):
        name = f"layer{index}"
        attention = _scales(largest[f"{name}.attention_input"], (layer.query, layer.key, layer.value), alpha)
        context = _scales(largest[f"{name}.attention_output_input"], (layer.attention_output,), alpha)
        raised = (layer.up,) if layer.gate is None else (layer.up, layer.gate)
        up = _scales(largest[f"{name}.up_input"], raised, alpha)
        layer = _move(layer, attention=attention, context=context, up=up)
        for left, scales in {"attention_input": attention, "up_input": up}.items():
            bounds[f"{name}.{left}"] = float((np.maximum(largest[f"{name}.{left}"], _SMALLEST) / np.abs(scales)).max())
        if weights.norm_first and layer.attention_norm is not None:
            layer = replace(layer, attention_norm=_divide(layer.attention_norm, attention))
        else:
            factors[f"{name}.attention_input"] = np.reciprocal(attention)
        if weights.norm_first:
            layer = replace(layer, output_norm=_divide(layer.output_norm, up))
        else:
            factors[f"{name}.up_input"] = np.reciprocal(up)
        layers.append(layer)
    return replace(weights, layers=tuple(layers)), factors, bounds


def _scales(largest_K: Array, products: tuple[LinearWeights, ...], alpha: float) -> Array:
    heaviest_K = np.max([np.abs(product.weight).max(axis=1) for product in products], axis=0)
    scales = np.maximum(largest_K, _SMALLEST) ** alpha / np.maximum(heaviest_K, _SMALLEST) ** (1 - alpha)
    rows = np.concatenate([product.weight for product in products], axis=1) * scales[:, None]
    return np.asarray(scales * pair_signs(rows), dtype=np.float32)


def _move(layer: LayerWeights, *, attention: Array, context: Array, up: Array) -> LayerWeights:
    def rows(linear: LinearWeights, scales: Array) -> LinearWeights:
        return replace(linear, weight=linear.weight * scales[:, None])

    value = rows(layer.value, attention)
    value_bias = None if value.bias is None else value.bias / context
    return replace(
        layer,
        query=rows(layer.query, attention),
        key=rows(layer.key, attention),
        value=LinearWeights(weight=value.weight / context, bias=value_bias),
        attention_output=rows(layer.attention_output, context),
        up=rows(layer.up, up),
        gate=None if layer.gate is None else rows(layer.gate, up),
    )


def _divide(norm: NormWeights, scales: Array) -> NormWeights:
    return replace(norm, gain=norm.gain / scales, shift=None if norm.shift is None else norm.shift / scales)


def _largest_magnitudes(
    model: onnx.ModelProto, probes: Mapping[str, str], batches: Iterable[TokenBatch]
) -> dict[str, Array]:
    """Return, for each probed left side, the largest |x| of each channel (K,) over all real tokens."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in probes.values())
    session = open_graph(probed.SerializeToString())
    largest: dict[str, Array] = {}
    for batch in batches:
        feeds = {"input_ids": batch.ids, "attention_mask": batch.mask}
        real = batch.mask.astype(bool)
        for name, values in zip(probes, session.run(list(probes.values()), feeds), strict=True):
            magnitude = np.abs(values[real]).max(axis=0)
            largest[name] = np.maximum(largest[name], magnitude) if name in largest else magnitude
    return largest


def _embed(model: onnx.ModelProto, batches: Iterable[TokenBatch]) -> Embeddings:
    session = open_graph(model.SerializeToString())
    feeds = ({"input_ids": batch.ids, "attention_mask": batch.mask} for batch in batches)
    return np.concatenate([session.run(["sentence_embedding"], feed)[0] for feed in feeds])
