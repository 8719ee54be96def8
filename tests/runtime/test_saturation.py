"""Integer products are exact on every CPU; x86 without VNNI would stop sums of two at 32,767."""

from __future__ import annotations

import numpy as np
import pytest

from kdserve.bench.peak import product_graph
from kdserve.runtime.saturation import _PRODUCT, integer_products_saturate
from kdserve.runtime.session import open_graph


@pytest.mark.parametrize("num_rows", [1, 2, 64])
def test_products_of_the_largest_numbers_are_exact(num_rows: int) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(product_graph(64))
    del model.metadata_props[:]  # a graph that nobody checked
    (weights,) = model.graph.initializer
    for extreme in (-128, 127):
        weights.raw_data = np.full((64, 64), extreme, np.int8).tobytes()
        for tensor in (model.graph.input[0], model.graph.output[0]):
            tensor.type.tensor_type.shape.dim[0].dim_value = num_rows
        products = open_graph(model.SerializeToString()).run(None, {"A": np.full((num_rows, 64), 255, np.uint8)})[0]
        assert np.array_equal(products, np.full((num_rows, 64), 64 * 255 * extreme))


def test_the_product_that_is_tried_is_of_the_largest_numbers() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(_PRODUCT)
    a, b = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    assert [node.op_type for node in model.graph.node] == ["MatMulInteger"]
    assert (a.dtype, a.tolist(), b.dtype, b.tolist()) == (np.uint8, [[255, 255]], np.int8, [[127], [127]])
    assert isinstance(integer_products_saturate(), bool)
