"""The second exporter: optimum-onnx traces the body in an environment of its own, the rest is added here.

It holds transformers below 5, so it cannot live beside kdserve; a subprocess runs `optimum_body.py` there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import onnx
import onnxruntime

from kdserve.errors import FolderError, RecipeError
from kdserve.export.graphs.builder import MICROSOFT, GraphBuilder
from kdserve.export.graphs.head import sentence_embedding
from kdserve.export.read.student import StudentFolder
from kdserve.export.read.tensors import INDEX_NAME, weight_files
from kdserve.json_files import read_object
from kdserve.temporary import into, temporary_folder

_SCRIPT = Path(__file__).with_name("optimum_body.py")
_STATES = "last_hidden_state"
_BODY_STATES = "body_states"
_TIMEOUT_S = 1800


def optimum_graph(student: StudentFolder, python: Path) -> onnx.ModelProto:
    """Write a student's graph in float32 with optimum-onnx, which `python` must have; pooled and normalised inside.

    Serves every family that optimum knows, those that have no graph here included.

    Raises:
        RecipeError: `python` is no interpreter, or lacks optimum-onnx.
        FolderError: the body or what follows it cannot be exported, or brings code of its own.
    """
    if student.head is None:
        raise FolderError(f"{student.folder} is no transformer; optimum exports those alone")
    body = student.body
    if "auto_map" in read_object(body / "config.json"):
        raise FolderError(f"{body / 'config.json'} names code of its own, which is never run")
    with temporary_folder("optimum") as scratch:
        given, made = scratch / "body", scratch / "onnx"
        with into(scratch):
            given.mkdir()
            for path in (body / "config.json", *weight_files(body)):  # nothing else: no pickle, no code
                shutil.copyfile(path, given / path.name)
            if (body / INDEX_NAME).is_file():
                shutil.copyfile(body / INDEX_NAME, given / INDEX_NAME)
        _run(python, given, made)
        return _finish(onnx.load(_fuse(made / "model.onnx")), student)


def _run(python: Path, given: Path, made: Path) -> None:
    """Export the body in the other environment."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-I", str(_SCRIPT), str(given), str(made)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, check=False)
    except OSError as error:
        raise RecipeError(f"{python} does not run ({error.strerror}); name the Python that has optimum-onnx") from error
    except subprocess.TimeoutExpired as error:
        raise FolderError(f"optimum did not export this body within {_TIMEOUT_S} s; leave --exporter out") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if "No module named 'optimum" in reason:
            raise RecipeError(f"{python} has no optimum-onnx; make its environment with: make optimum")
        raise FolderError(f"optimum cannot export this body ({reason})")


def _fuse(path: Path) -> Path:
    """Let onnxruntime fuse and fold once, here: bundles are opened without any optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_name("fused.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return path.with_name("fused.onnx")


def _finish(model: onnx.ModelProto, student: StudentFolder) -> onnx.ModelProto:
    """Put pooling and normalisation behind the body's states, and zeros where it asks for segments."""
    assert student.head is not None
    inputs = {node.name for node in model.graph.input}
    if _STATES not in {node.name for node in model.graph.output} or inputs - {"token_type_ids"} != {
        "input_ids",
        "attention_mask",
    }:
        raise FolderError(f"optimum gave {student.folder} a graph with inputs {sorted(inputs)}, which is no encoder")
    for node in model.graph.node:
        node.output[:] = [_BODY_STATES if name == _STATES else name for name in node.output]
        node.input[:] = [_BODY_STATES if name == _STATES else name for name in node.input]
    graph = GraphBuilder()
    embedding = sentence_embedding(graph, _BODY_STATES, student.head)
    tail = graph.model(embedding, dim=student.dim, tokens=_BODY_STATES)
    nodes = [*model.graph.node, *tail.graph.node]
    if "token_type_ids" in inputs:
        shape = onnx.helper.make_node("Shape", ["input_ids"], ["segments_shape"])
        zero = onnx.helper.make_tensor("zero", onnx.TensorProto.INT64, [1], [0])
        zeros = onnx.helper.make_node("ConstantOfShape", ["segments_shape"], ["token_type_ids"], value=zero)
        nodes = [shape, zeros, *nodes]
    whole = onnx.helper.make_graph(
        nodes, "encoder", tail.graph.input, tail.graph.output, [*model.graph.initializer, *tail.graph.initializer]
    )
    imports = [one for one in model.opset_import if one.domain != MICROSOFT]
    imports.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    return onnx.helper.make_model(whole, opset_imports=imports, ir_version=model.ir_version, producer_name="kdserve")
