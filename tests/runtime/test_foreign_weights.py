"""A graph cannot draw weights from a file that nobody verified, wherever it hides the tensor that does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdserve.errors import EncodeError, FolderError
from kdserve.manifest import read_manifest, write_manifest
from kdserve.runtime import Encoder
from kdserve.runtime.mapped import _HOLDERS, graph_over_file

onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")
helper = onnx.helper


def outside() -> Any:
    tensor = onnx.TensorProto(name="outside", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside")
    return tensor


def constant(name: str = "unused") -> Any:
    return helper.make_node("Constant", [], [name], value=outside())


def branch(*nodes: Any) -> Any:
    return helper.make_graph(list(nodes), "branch", [], [helper.make_tensor_value_info("unused", 1, [1])])


def in_a_constant(model: Any) -> None:
    model.graph.node.insert(0, constant())


def in_a_branch_of_a_branch(model: Any) -> None:
    true = helper.make_tensor("true", onnx.TensorProto.BOOL, [1], [True])
    model.graph.initializer.append(true)
    inner = helper.make_node("If", ["true"], ["unused"], then_branch=branch(constant()), else_branch=branch(constant()))
    outer = helper.make_node("If", ["true"], ["unused"], then_branch=branch(inner), else_branch=branch(constant()))
    model.graph.node.insert(0, outer)


def in_a_function(model: Any) -> None:
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.append(
        helper.make_function("own", "Draw", [], ["unused"], [constant()], [helper.make_opsetid("", 17)])
    )
    model.graph.node.insert(0, helper.make_node("Draw", [], ["unused"], domain="own"))


def in_a_list_of_an_attribute(model: Any) -> None:
    model.graph.node[0].attribute.add(name="many", type=onnx.AttributeProto.TENSORS).tensors.append(outside())


def in_a_sparse_initializer(model: Any) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(outside())


def in_a_sparse_attribute(model: Any) -> None:
    model.graph.node[0].attribute.add(name="sparse").sparse_tensor.indices.CopyFrom(outside())


def in_a_training_graph(model: Any) -> None:
    model.training_info.add().algorithm.node.append(constant())


def in_an_initializer_without_a_location(model: Any) -> None:
    tensor = outside()
    tensor.ClearField("data_location")
    model.graph.initializer.append(tensor)


HIDDEN = [
    in_a_constant,
    in_a_branch_of_a_branch,
    in_a_function,
    in_a_list_of_an_attribute,
    in_a_sparse_initializer,
    in_a_sparse_attribute,
    in_a_training_graph,
    in_an_initializer_without_a_location,
]


def rewrite(bundle: Path, change: Callable[[Any], None], *, before: bytes = b"") -> None:
    """Change a bundle's graph and make its manifest anew, as whoever writes a bundle can."""
    model = onnx.load(bundle / "model.onnx")
    change(model)
    (bundle / "model.onnx").write_bytes(before + model.SerializeToString())
    manifest = read_manifest(bundle, kind="bundle")
    write_manifest(bundle, kind="bundle", parents=manifest.parents, settings=manifest.settings)


@pytest.mark.parametrize("hide", HIDDEN)
def test_weights_from_elsewhere_are_refused_wherever_they_hide(
    copied_bundle: Path, hide: Callable[[Any], None]
) -> None:
    (copied_bundle.parent / "outside").write_bytes(np.ones(1, np.float32).tobytes())
    rewrite(copied_bundle, hide)
    with pytest.raises(FolderError, match="draws weights from another file"):
        Encoder.load(copied_bundle)


@pytest.mark.parametrize("group", [b"\x9b\x06\x9c\x06", b"\x0b\x0c", b"\x3b\x3c"])
def test_a_group_before_the_graph_hides_nothing(copied_bundle: Path, group: bytes) -> None:
    rewrite(copied_bundle, in_a_constant, before=group)
    with pytest.raises(FolderError, match="no ONNX graph"):
        Encoder.load(copied_bundle)


def test_the_walk_goes_wherever_onnx_can_hold_a_tensor() -> None:
    def holders(message: Any) -> dict[int, str]:
        return {
            field.number: field.message_type.name
            for field in message.fields
            if field.message_type and (field.message_type.name in _HOLDERS or field.message_type.name == "TensorProto")
        }

    messages = onnx.onnx_ml_pb2.DESCRIPTOR.message_types_by_name
    assert {name: holders(message) for name, message in messages.items() if holders(message)} == _HOLDERS


def test_a_sound_graph_passes(bundle: Path) -> None:
    assert onnx.load_from_string(graph_over_file(bundle / "model.onnx")).graph.node


EMBEDDING = "sentence_embedding"


def scale(model: Any, factor: float) -> None:
    for node in model.graph.node:
        node.output[:] = ["before" if output == EMBEDDING else output for output in node.output]
    model.graph.initializer.append(helper.make_tensor("factor", onnx.TensorProto.FLOAT, [], [factor]))
    model.graph.node.append(helper.make_node("Mul", ["before", "factor"], [EMBEDDING]))


@pytest.mark.parametrize(("factor", "length"), [(2.0, "2"), (float("nan"), "nan"), (float("inf"), "inf"), (0.0, "0")])
def test_rows_that_are_no_unit_vectors_are_refused(copied_bundle: Path, factor: float, length: str) -> None:
    rewrite(copied_bundle, lambda model: scale(model, factor))
    encoder = Encoder.load(copied_bundle, num_threads=1)
    with pytest.raises(EncodeError, match=f"gives vectors of length {length}, not 1"):
        encoder.encode_query(["a house"])


def test_tokens_that_a_static_student_learnt_nothing_of_say_nothing(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(Path(__file__).parent / "bundles" / "static", tmp_path / "bundle"))
    rewrite(bundle, lambda model: scale(model, 0.0))
    assert not Encoder.load(bundle).encode_query(["a house"]).any()


@pytest.mark.parametrize("kind", [onnx.TensorProto.STRING, onnx.TensorProto.INT64, onnx.TensorProto.DOUBLE])
def test_an_output_of_another_type_is_refused(copied_bundle: Path, kind: int) -> None:
    def cast(model: Any) -> None:
        scale(model, 1.0)
        model.graph.node[-1].CopyFrom(helper.make_node("Cast", ["before"], [EMBEDDING], to=kind))
        (output,) = (output for output in model.graph.output if output.name == EMBEDDING)
        output.type.tensor_type.elem_type = kind

    rewrite(copied_bundle, cast)
    with pytest.raises(FolderError, match=r"has inputs .* and outputs"):
        Encoder.load(copied_bundle)
