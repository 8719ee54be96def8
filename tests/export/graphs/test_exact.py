from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper
from tiny_students import tiny_plain

from kdserve.errors import FidelityError
from kdserve.export import ExportSettings, GateTexts, export_bundle
from kdserve.export.graphs.arithmetic import DynamicInt8, Float32
from kdserve.export.graphs.exact import order_channels, pair_signs, quantize_columns, require_exact_products
from kdserve.export.graphs.transformer import transformer_graph
from kdserve.export.read.student import read_student
from kdserve.export.read.weights import TransformerWeights
from kdserve.runtime.saturation import EXACT_MARK
from kdserve.runtime.session import open_graph
from kdserve.samples import parallel

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 4))
NUMBERS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False) | st.sampled_from([0.0, 1.0, -1.0, 0.5])
GATE = GateTexts(by_language={"en": parallel()["en"][:10]}, parallel=False)


def sum_in_16_bits(activations: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The product as a CPU without VNNI computes it: neighbours added within 16 bits."""
    terms = activations.astype(np.int64)[:, None] * levels
    if len(terms) % 2:
        terms = np.concatenate([terms, np.zeros_like(terms[:1])])
    return np.clip(terms[::2] + terms[1::2], -32768, 32767).sum(axis=0)


@settings(deadline=None)
@given(SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=NUMBERS)), st.integers(0, 2**32))
def test_no_activations_make_the_rounded_weights_saturate(weight: np.ndarray, seed: int) -> None:
    levels, _ = quantize_columns(weight)
    some = np.random.default_rng(seed).integers(0, 256, len(weight))
    for activations in (some, np.full(len(weight), 255)):
        assert np.array_equal(sum_in_16_bits(activations, levels), activations @ levels.astype(np.int64))


@settings(deadline=None)
@given(SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=NUMBERS)))
def test_rounding_is_never_worse_than_half_as_many_levels(weight: np.ndarray) -> None:
    levels, scales = quantize_columns(weight)
    largest = np.maximum(np.abs(weight).max(axis=0), 1e-18).astype(np.float64)
    error = np.square((levels * scales.astype(np.float64) - weight) / largest).sum(axis=0)
    assert np.all(error <= len(weight) / 127**2 * 1.001)


def test_weights_that_cannot_saturate_are_rounded_as_closely_as_ever() -> None:
    weight = np.random.default_rng(0).uniform(-1, 1, (64, 8)).astype(np.float32)
    weight[1::2] *= 0.003
    levels, scales = quantize_columns(weight)
    plain = np.abs(weight).max(axis=0) / 127
    error, plain_error = (
        np.square(rounded - weight).sum(axis=0) for rounded in (levels * scales, np.rint(weight / plain) * plain)
    )
    assert np.all(error <= plain_error * (1 + 1e-5))


def test_two_equal_large_weights_meet_the_bound_and_two_opposite_ones_do_not() -> None:
    levels, scales = quantize_columns(np.array([[1, 1], [1, -1]], dtype=np.float32))
    assert np.abs(levels.astype(int).sum(axis=0)).max() <= 128
    np.testing.assert_allclose(levels * scales, [[1, 1], [1, -1]], atol=0.01)


def test_what_weights_learnt_since_they_were_rounded_outlives_rounding_aside() -> None:
    rng = np.random.default_rng(0)
    levels, scales = quantize_columns(rng.normal(size=(384, 64)).astype(np.float32))
    learnt = np.outer(rng.normal(size=384), rng.normal(size=64) * 0.1 * scales).astype(np.float32)  # a tenth of a step
    weight = levels * scales + learnt

    def kept(*, aside: bool) -> float:
        rounded, steps = quantize_columns(weight, aside=aside)
        return float(((rounded * steps - levels * scales) * learnt).sum() / np.square(learnt).sum())

    assert kept(aside=False) < 0.5
    assert kept(aside=True) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("family", ["bert", "t5-gated", "modernbert-biases"])
def test_the_order_of_channels_changes_no_vector_and_leaves_less_to_bound(family: str, tmp_path: Path) -> None:
    weights = read_student(tiny_plain(tmp_path / "student", family=family)).weights
    assert isinstance(weights, TransformerWeights)
    ordered = order_channels(weights)
    ids = np.random.default_rng(0).integers(0, 1200, (3, 12))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    before, after = (
        open_graph(transformer_graph(each, Float32(), table_bits=32).SerializeToString()).run(None, feeds)[0]
        for each in (weights, ordered)
    )
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert excess(ordered.layers[0].down.weight) < excess(weights.layers[0].down.weight)


def test_signs_turn_rows_over_where_they_agree_with_their_neighbours() -> None:
    column = np.array([[1.0], [0.9], [1.0], [-0.9], [0.8]], dtype=np.float32)
    assert pair_signs(column).tolist() == [1, -1, 1, 1, 1]


def excess(weight: np.ndarray) -> float:
    levels = weight / np.abs(weight).max(axis=0) * 127
    return float(np.square(np.maximum(np.abs(levels[::2] + levels[1::2]) - 128, 0)).sum())


@pytest.mark.parametrize("precision", ["int8", "dynamic-int8"])
def test_an_exported_graph_says_that_its_products_are_exact(precision: str, transformer: Path, tmp_path: Path) -> None:
    export_settings = ExportSettings(precision=precision, min_mean_cosine=0.9, min_cosine=0.9)
    export_bundle(transformer, tmp_path / "bundle", settings=export_settings, texts=GATE)
    model = onnx.load(tmp_path / "bundle" / "model.onnx")
    assert [entry.key for entry in model.metadata_props] == [EXACT_MARK]
    require_exact_products(model)


def test_a_graph_that_could_saturate_is_refused(transformer: Path) -> None:
    weights = read_student(transformer).weights
    assert isinstance(weights, TransformerWeights)
    model = transformer_graph(weights, DynamicInt8(), table_bits=32)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "layer1.up")
    levels = numpy_helper.to_array(tensor).copy()
    levels[4:6, 7] = -64, -65
    tensor.CopyFrom(numpy_helper.from_array(levels, tensor.name))
    with pytest.raises(FidelityError, match=r"layer1\.up could saturate"):
        require_exact_products(model)
    levels[4:6, 7] = -64, -64
    tensor.CopyFrom(numpy_helper.from_array(levels, tensor.name))
    require_exact_products(model)


def test_an_integer_product_that_no_check_covers_is_refused() -> None:
    node = onnx.helper.make_node("QLinearMatMul", [f"in{i}" for i in range(8)], ["out"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", [], []))
    with pytest.raises(FidelityError, match="QLinearMatMul out is an integer product that no check covers"):
        require_exact_products(model)


def test_a_table_multiplied_by_its_rows_is_checked_along_them() -> None:
    levels = np.array([[64, 64, 1], [0, 64, 65]], np.int8)
    tensor = numpy_helper.from_array(levels, "table")
    node = onnx.helper.make_node("QGemm", ["a", "s", "z", "table", "t", "y"], ["out"], transB=1)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", [], [], [tensor]))
    require_exact_products(model)
    tensor.CopyFrom(numpy_helper.from_array(levels[:, ::-1], "table"))
    model.graph.initializer[0].CopyFrom(tensor)
    with pytest.raises(FidelityError, match="table could saturate"):
        require_exact_products(model)
