"""Write ONNX graphs by hand: constants, nodes, one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET = 21
_IR_VERSION = 10
MICROSOFT = "com.microsoft"
Form = tuple[int, tuple[str | int, ...]]
"""The kind of an input's or output's numbers (onnx.TensorProto) and its axes, those that vary by name."""


class GraphBuilder:
    """An ONNX graph under construction. Names are counted, so equal inputs give byte-identical models.

    With `half`, float32 constants are stored as float16 and everything computes in it, until `full_precision`.
    """

    def __init__(self, *, half: bool = False) -> None:
        self._half = half
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: npt.NDArray[Any], *, exact: bool = False) -> str:
        """Store an array once under its name and return the name; an `exact` one stays float32 in any graph."""
        if name not in self._constants:
            if self._half and not exact and value.dtype == np.float32:
                value = value.astype(np.float16)
            self._constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def scalar(self, value: float | int, dtype: type[np.generic] = np.float32) -> str:
        """Store a number, shared by everyone who asks for the same one."""
        if self._half and dtype is np.float32:
            dtype = np.float16
        return self.constant(f"{np.dtype(dtype).name}_{value!r}", np.array(value, dtype=dtype))

    def vector(self, *values: int) -> str:
        """Store int64 axes or indices, shared."""
        return self.constant(f"axes_{'_'.join(map(str, values))}", np.array(values, dtype=np.int64))

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        return self.add_all(op, *inputs, outputs=1, domain=domain, **attributes)[0]

    def add_all(self, op: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """Append a node and return the names of all its outputs."""
        name = f"{op}_{len(self._nodes)}"
        names = [name, *(f"{name}_{number}" for number in range(1, outputs))]
        return self.add_named(op, inputs, names, domain=domain, **attributes)

    def add_named(
        self, op: str, inputs: Sequence[str], names: Sequence[str], *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node whose outputs have these names, for example those of the graph's outputs, and return them."""
        name = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), list(names), name=name, domain=domain, **attributes))
        return list(names)

    def either(
        self,
        condition: str,
        then: Callable[[], Sequence[str]],
        otherwise: Callable[[], Sequence[str]],
        *,
        names: Sequence[str],
        kinds: Sequence[int],
    ) -> None:
        """Compute one of two branches, by a `condition` (1,) bool, and give its tensors, of these kinds, these names.

        What a branch appends, and returns the names of, is in a graph of its own, which reads the tensors of this one.
        """
        branches = {}
        for name, write in (("then_branch", then), ("else_branch", otherwise)):
            start = len(self._nodes)
            made = [helper.make_tensor_value_info(own, kind, None) for own, kind in zip(write(), kinds, strict=True)]
            branches[name] = helper.make_graph(self._nodes[start:], name, [], made)
            del self._nodes[start:]
        self.add_named("If", [condition], names, **branches)

    def to_float(self, x: str) -> str:
        """Cast to the type that the graph computes in."""
        return self.add("Cast", x, to=TensorProto.FLOAT16 if self._half else TensorProto.FLOAT)

    def full_precision(self, x: str) -> str:
        """Compute in float32 from here on, starting with x."""
        if not self._half:
            return x
        self._half = False
        return self.to_float(x)

    def fused(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of onnxruntime's own operator set."""
        return self.add(op, *inputs, domain=MICROSOFT, **attributes)

    def model(self, output: str, *, dim: int, tokens: str | None = None) -> onnx.ModelProto:
        """Close the graph: `input_ids`, `attention_mask` (B, T) int64 in, `sentence_embedding` (B, dim) float32 out.

        `tokens` names hidden states (B, T, H) that go out as `last_hidden_state`, for software that pools by itself.
        They cost nothing where nobody asks for them.
        """
        inputs = dict.fromkeys(("input_ids", "attention_mask"), (TensorProto.INT64, ("batch", "tokens")))
        results: dict[str, Form] = {"sentence_embedding": (TensorProto.FLOAT, ("batch", dim))}
        made = {"sentence_embedding": output}
        if tokens is not None:
            results["last_hidden_state"] = (TensorProto.FLOAT, ("batch", "tokens", "hidden"))
            made["last_hidden_state"] = tokens
        return self.close("encoder", inputs, results, made)

    def close(
        self, name: str, inputs: Mapping[str, Form], outputs: Mapping[str, Form], made: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Close the graph with these inputs and outputs; `made` names the tensor that each output is."""
        self._nodes += [helper.make_node("Identity", [made[name]], [name]) for name in outputs if made[name] != name]
        ins, outs = (
            [helper.make_tensor_value_info(tensor, kind, list(shape)) for tensor, (kind, shape) in part.items()]
            for part in (inputs, outputs)
        )
        graph = helper.make_graph(self._nodes, name, ins, outs, list(self._constants.values()))
        imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, producer_name="kdserve")
