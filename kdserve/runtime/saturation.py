"""Whether onnxruntime's integer products are exact on this CPU.

x86 CPUs without VNNI multiply uint8 by int8 with an instruction (VPMADDUBSW) that adds the products of two neighbouring
rows in 16 bits and stops at 32,767. What counts is what onnxruntime does here, so one small product is tried, in less
than a millisecond, rather than the CPU's name read: that holds on every system, and under emulators too.
"""

from __future__ import annotations

from functools import cache

EXACT_MARK = "kdserve_exact_products"
"""A key among a graph's properties: its export checked that no integer product can exceed 16 bits on the way."""
_EXACT = 2 * 255 * 127
# An ONNX model: y = MatMulInteger(a, b), where a (1, 2) is 255 as uint8 throughout and b (2, 1) is 127 as int8.
_PRODUCT = (
    b'\x08\x08:F\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01g*\r\x08\x01\x08\x02\x10\x02B\x01aJ\x02\xff\xff'
    b"*\r\x08\x02\x08\x01\x10\x03B\x01bJ\x02\x7f\x7fb\t\n\x01y\x12\x04\n\x02\x08\x06B\x04\n\x00\x10\n"
)


@cache
def integer_products_saturate() -> bool:
    """Say whether the product of uint8 and int8 matrices can be wrong here. Needs onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(_PRODUCT, options, providers=["CPUExecutionProvider"])
    return bool(session.run(None, {})[0].item() != _EXACT)
