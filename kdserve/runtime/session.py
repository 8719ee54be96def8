"""The one door to onnxruntime.

B batch, T tokens, D width of an embedding
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdserve.datatypes import Embeddings, TokenBatch
from kdserve.errors import EncodeError, FolderError, MissingExtraError
from kdserve.runtime.mapped import graph_over_file
from kdserve.runtime.saturation import EXACT_MARK, integer_products_saturate

if TYPE_CHECKING:
    import onnxruntime

Device = Literal["cpu", "cuda"]
Output = Literal["sentence_embedding", "probabilities"]
_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_INPUTS = ("input_ids", "attention_mask")
_FATAL_ONLY = 4
_INTEGER_PRODUCT = b"MatMulInteger"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class Session:
    """An ONNX graph with `input_ids`, `attention_mask` (B, T) in and one row a text out: `sentence_embedding` (B, D).

    It computes on one thread and may be called from several at once, so that a text's vector cannot depend on how the
    work was split.
    """

    def __init__(self, model: Path, *, device: Device = "cpu", output: Output = "sentence_embedding") -> None:
        """Open a graph on exactly the device that was asked for.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            EncodeError: this machine or this onnxruntime does not offer the device.
            FolderError: the file is no graph that onnxruntime can open, or has other inputs and outputs.
        """
        self._output = output
        self._session = open_graph(model, device=device)
        try:
            inputs = {node.name: node.type for node in self._session.get_inputs()}
            outputs = {node.name: node.type for node in self._session.get_outputs()}
        except graph_failures() as error:
            raise FolderError(f"{model} has unreadable names ({first_line(error)}); export the bundle again") from error
        if inputs != dict.fromkeys(_INPUTS, "tensor(int64)") or outputs.get(output) != "tensor(float)":
            raise FolderError(f"{model} has inputs {inputs} and outputs {outputs}; export the bundle again")

    def run(self, batch: TokenBatch) -> Embeddings:
        """Embed one batch: (B, D) float32.

        Raises:
            EncodeError: the graph failed, for example out of the device's memory.
        """
        feeds = {"input_ids": batch.ids, "attention_mask": batch.mask}
        try:
            vectors: Embeddings = self._session.run([self._output], feeds)[0]
        except graph_failures() as error:
            raise EncodeError(f"the graph failed on a batch of shape {batch.ids.shape}: {first_line(error)}") from error
        return vectors


def open_graph(
    model: Path | bytes, *, device: Device = "cpu", weights: Path | None = None
) -> onnxruntime.InferenceSession:
    """Open any ONNX graph, single-threaded, on exactly the device that was asked for. Raises as `Session`.

    `weights` is a verified file beside it that may hold its tensors.

    Graphs arrive here already fused and folded, so nothing is optimised at load: a quicker start, and no rewriting
    that could change a vector between versions of onnxruntime. The exception are integer products on a CPU where they
    saturate, in graphs that were not made for it: there onnxruntime turns int8 weights into uint8, whose products are
    exact, and slower.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "gpu" if device == "cuda" else "cpu") from error
    provider = _PROVIDERS.get(device)
    if provider is None:
        raise EncodeError(f"there is no device {device!r} here; name cpu or cuda")
    if provider not in onnxruntime.get_available_providers():
        raise EncodeError(
            f"this onnxruntime {onnxruntime.__version__} does not offer {device}; "
            f"install 'kdserve[gpu]' in place of 'kdserve[cpu]', or load on device='cpu'"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern = False  # patterns are kept for every shape ever seen: memory that only grows
    options.log_severity_level = _FATAL_ONLY  # failures arrive as exceptions
    options.add_session_config_entry("session.load_model_format", "ONNX")  # no other is walked for its weights
    source = model if isinstance(model, bytes) else graph_over_file(model, weights=weights)
    if isinstance(model, Path):
        options.add_session_config_entry(_WEIGHTS_FOLDER, os.fsencode(model.parent))
    if _may_saturate(source):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(
            source, options, providers=[(provider, _provider_options(device))], enable_fallback=int(device != "cpu")
        )
    except graph_failures() as error:
        where = "the graph" if isinstance(model, bytes) else str(model)
        raise FolderError(f"{where} cannot be opened ({first_line(error)}); export the bundle again") from error
    if provider not in session.get_providers():  # onnxruntime falls back to the CPU with a mere log line
        raise EncodeError(f"{device} did not start on this machine; check the driver and CUDA, or load on device='cpu'")
    return session


def _may_saturate(graph: bytes) -> bool:
    return _INTEGER_PRODUCT in graph and EXACT_MARK.encode() not in graph and integer_products_saturate()


def graph_failures() -> tuple[type[Exception], ...]:
    """List what onnxruntime raises: kinds of its own, which have no base in common but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (RuntimeError, ValueError, *kinds)


def _provider_options(device: Device) -> dict[str, str]:
    """Let memory grow by what is needed: the default doubles, and rounding to powers of two wastes half."""
    return {"arena_extend_strategy": "kSameAsRequested"} if device == "cuda" else {}


def first_line(error: Exception) -> str:
    """What onnxruntime says first, which is what counts."""
    return str(error).strip().split("\n", 1)[0][:300]
