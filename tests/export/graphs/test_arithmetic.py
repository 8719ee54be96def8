from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from kdserve.export.graphs.arithmetic import Arithmetic, BlockWeights, DynamicInt8, Float32, PerTokenInt8
from kdserve.export.graphs.builder import GraphBuilder
from kdserve.export.graphs.exact import quantize_columns
from kdserve.export.graphs.table import quantize_blocks, quantize_rows
from kdserve.export.read.weights import LinearWeights
from kdserve.runtime.session import open_graph

RNG = np.random.default_rng(1)
WEIGHT = RNG.standard_normal((32, 48)).astype(np.float32)
BIAS = RNG.standard_normal(48).astype(np.float32)
LINEAR = LinearWeights(weight=WEIGHT, bias=BIAS)


def product(
    arithmetic: Arithmetic, x: np.ndarray, *, lowest: float | None = None, linear: LinearWeights = LINEAR
) -> np.ndarray:
    """Run one product of the arithmetic on x (B, T, K), with K = 32 for the usual weights."""
    graph = GraphBuilder()
    output = arithmetic.multiply(graph, arithmetic.prepare(graph, "x", "x", lowest=lowest), "weight", linear)
    model = graph.model(output, dim=48)
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.FLOAT, None))
    return open_graph(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize(
    ("arithmetic", "tolerance"), [(Float32(), 1e-5), (DynamicInt8(), 0.2), (BlockWeights(bits=8), 0.2)]
)
def test_each_arithmetic_is_the_matrix_product(arithmetic: Arithmetic, tolerance: float) -> None:
    x = RNG.standard_normal((2, 3, 32)).astype(np.float32)
    np.testing.assert_allclose(product(arithmetic, x), x @ WEIGHT + BIAS, atol=tolerance)


def test_int8_is_the_product_of_the_rounded_sides() -> None:
    x = RNG.standard_normal((2, 3, 32)).astype(np.float32)
    row = np.abs(x).max(axis=-1, keepdims=True) / 127
    levels, column = quantize_columns(WEIGHT)
    expected = (np.rint(x / row) @ levels) * row * column + BIAS
    np.testing.assert_allclose(product(PerTokenInt8(), x), expected, rtol=1e-4, atol=2e-2)


def test_a_lower_bound_gives_the_positive_side_more_levels() -> None:
    x = np.maximum(RNG.standard_normal((4, 32)) * 4, -0.17).astype(np.float32)[None]
    row = x.max(axis=-1, keepdims=True) / 223
    levels, column = quantize_columns(WEIGHT)
    expected = (np.rint(x / row) @ levels) * row * column + BIAS
    np.testing.assert_allclose(product(PerTokenInt8(), x, lowest=-0.17), expected, rtol=1e-4, atol=5e-2)


def test_values_at_the_lower_bound_alone_are_not_lost() -> None:
    x = np.full((1, 1, 32), -0.17, dtype=np.float32)
    levels, column = quantize_columns(WEIGHT)
    np.testing.assert_allclose(product(PerTokenInt8(), x, lowest=-0.17), x @ (levels * column) + BIAS, atol=2e-2)


def test_a_token_does_not_see_its_neighbours() -> None:
    x = RNG.standard_normal((1, 8, 32)).astype(np.float32)
    neighbours = x.copy()
    neighbours[:, 1:] *= 1000
    assert np.array_equal(product(PerTokenInt8(), x)[:, 0], product(PerTokenInt8(), neighbours)[:, 0])


def test_a_bounded_side_has_one_scale_for_all_tokens() -> None:
    x = RNG.uniform(-2, 2, (1, 3, 32)).astype(np.float32)
    x[0, 0, 0] = 9  # beyond the bound
    levels, column = quantize_columns(WEIGHT)
    expected = (np.clip(np.rint(x * 127 / 2), -128, 127) @ levels) * (2 / 127) * column + BIAS
    np.testing.assert_allclose(product(PerTokenInt8(bounds={"x": 2.0}), x), expected, rtol=1e-4, atol=2e-2)


def test_a_row_of_zeros_stays_zero() -> None:
    zeros = np.zeros((1, 2, 32), dtype=np.float32)
    assert np.array_equal(product(PerTokenInt8(), zeros), np.broadcast_to(BIAS, (1, 2, 48)))


def test_int8_rows_come_back_within_half_a_step() -> None:
    table = RNG.standard_normal((20, 64)).astype(np.float32)
    table[3] = 0
    rows, scales = quantize_rows(table)
    assert np.all(np.abs(rows * scales - table) <= scales / 2 + 1e-7)


@pytest.mark.parametrize("signed_peak", [-8, 7, 8])
def test_int4_blocks_on_a_grid_come_back_exactly(signed_peak: int) -> None:
    levels = RNG.integers(-7, 8, (10, 2, 32))
    levels[..., 0] = signed_peak
    scales = RNG.uniform(0.5, 2, (10, 2)).astype(np.float32)
    table = (levels * scales[..., None]).reshape(10, 64).astype(np.float32)
    packed, found = quantize_blocks(table)
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(10, 2, 32).astype(int) - 8
    sign = -1 if signed_peak == 8 else 1  # what only reaches 7 is stored upside down
    assert np.array_equal(sign * nibbles, levels)
    np.testing.assert_allclose(sign * found, scales, rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("num_rows", [1, 5])
def test_blocks_of_the_largest_weights_are_exact_on_every_cpu(bits: int, num_rows: int) -> None:
    linear = LinearWeights(weight=np.full((64, 48), -1, dtype=np.float32), bias=None)
    found = product(BlockWeights(bits=bits), np.ones((1, num_rows, 64), dtype=np.float32), linear=linear)
    np.testing.assert_allclose(found, np.full((1, num_rows, 48), -64), rtol=1e-6)
