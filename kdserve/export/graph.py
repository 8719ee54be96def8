"""Write ONNX graphs by hand: constants, nodes, one model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET = 21
_IR_VERSION = 10
MICROSOFT = "com.microsoft"


class GraphBuilder:
    """An ONNX graph under construction. Names are counted, so equal inputs give byte-identical models."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Store an array once under its name and return the name."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def scalar(self, value: float | int, dtype: type[np.generic] = np.float32) -> str:
        """Store a number, shared by everyone who asks for the same one."""
        return self.constant(f"{np.dtype(dtype).name}_{value!r}", np.array(value, dtype=dtype))

    def vector(self, *values: int) -> str:
        """Store int64 axes or indices, shared."""
        return self.constant(f"axes_{'_'.join(map(str, values))}", np.array(values, dtype=np.int64))

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node and return the name of its first output."""
        output = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def fused(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of onnxruntime's own operator set."""
        return self.add(op, *inputs, domain=MICROSOFT, **attributes)

    def model(self, output: str, *, dim: int) -> onnx.ModelProto:
        """Close the graph: `input_ids`, `attention_mask` (B, T) int64 in, `sentence_embedding` (B, dim) float32 out."""
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ]
        result = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", dim])
        self._nodes.append(helper.make_node("Identity", [output], ["sentence_embedding"]))
        graph = helper.make_graph(self._nodes, "encoder", inputs, [result], list(self._constants.values()))
        imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, producer_name="kdserve")
