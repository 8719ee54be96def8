"""The constants of a graph, read back as weights: rounded ones times their scales are floats again.

The graph's constants have the names of the weights' parts. What the export moved between them (smoothing, the order of
channels, signs) stays where it is: the function is the same.

K input width, N output width, V vocabulary, H width
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper, numpy_helper

from kdserve.errors import FolderError
from kdserve.export.graphs.table import BLOCK
from kdserve.export.read.bert import FAMILIES, POSITIONS_AFTER_PADDING
from kdserve.export.read.weights import Array

_LEFT = {
    **dict.fromkeys(("query", "key", "value"), "attention_input"),
    "attention_output": "attention_output_input",
    "up": "up_input",
    "down": "down_input",
}
_NORMS = {"attention_norm": "attention", "output_norm": "output"}
BIT_WIDTHS: Mapping[str, Literal[4, 8]] = {"uint8": 4, "int8": 8}
"""Of a stored token table, by the kind of its numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Constants:
    """A graph's constants by name; `steps` are the units of the activations that meet a weight, `widths` its K."""

    arrays: Mapping[str, npt.NDArray[Any]]
    steps: Mapping[str, npt.NDArray[Any]]
    widths: Mapping[str, int]


@contextmanager
def reading_back(model: Path) -> Iterator[None]:
    """Turn what fails inside on a graph that is none, or that no export laid out so, into FolderError."""
    try:
        yield
    except (DecodeError, LookupError, ValueError, TypeError, AttributeError, StopIteration, MemoryError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read back ({error})"
        raise FolderError(f"{model} {what}; export the bundle again") from error


def read_constants(model: onnx.ModelProto) -> Constants:
    """Collect the constants of a graph whose tensors are inside."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    products = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    blocks = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    return Constants(
        arrays=arrays,
        steps={node.input[1]: arrays[makers[node.input[0]].input[1]] for node in products},
        widths={
            node.input[1]: helper.get_attribute_value(next(a for a in node.attribute if a.name == "K"))
            for node in blocks
        },
    )


def token_table(constants: Constants) -> Array:
    """(V, H) as float32, whatever the graph stores it in."""
    stored, scales = constants.arrays["table"], constants.arrays.get("table_scales")
    if scales is None:
        return stored.astype(np.float32)
    table: Array = levels_of(stored) * (scales if stored.dtype == np.int8 else np.repeat(scales, BLOCK, axis=1))
    return table


def levels_of(stored: npt.NDArray[Any]) -> Array:
    """Unpack the last axis: int8 as it is, uint8 as two numbers each, the low one first, around 8."""
    if stored.dtype == np.int8:
        return stored.astype(np.float32)
    nibbles = np.stack([stored & 15, stored >> 4], axis=-1).astype(np.float32) - 8
    return nibbles.reshape(*stored.shape[:-1], -1)


def weight_of(constants: Constants, name: str, left: str) -> Array:
    """(K, N) as float32: of float graphs, of blocks, or of int8 with the smoothing of its left side multiplied in."""
    stored = constants.arrays[name]
    if stored.ndim == 2 and name not in constants.steps:
        return stored.astype(np.float32)
    scales = constants.arrays[f"{name}.scales"]
    if name in constants.widths:
        levels = levels_of(stored) if stored.shape[-1] < BLOCK else stored.astype(np.float32) - 128
        return np.ascontiguousarray(
            (levels * scales[..., None]).reshape(len(stored), -1)[:, : constants.widths[name]].T
        )
    weight: Array = stored.astype(np.float32) * (scales / constants.steps[name])
    return weight * constants.arrays[left][:, None] if left in constants.arrays else weight


def body_tensors(table: Array, constants: Constants, config: Mapping[str, Any]) -> dict[str, Array]:
    """Name the weights as checkpoints of the family do; the row of the first segment is in the positions."""
    family = config["model_type"]
    if family not in FAMILIES or family == "mpnet":  # what MPNet knows of distances is spread out in the graph
        raise FolderError(f"a body of the family {family} cannot be read back from a bundle; static and BERT-like can")
    names = FAMILIES[family]
    positions = constants.arrays["positions"].astype(np.float32)
    if family in POSITIONS_AFTER_PADDING:
        positions = np.pad(positions, ((config["pad_token_id"] + 1, 0), (0, 0)))
    positions = positions[: config.get("max_position_embeddings")]  # graphs repeat the last one for padding
    tensors = {"embeddings.word_embeddings.weight": table, "embeddings.position_embeddings.weight": positions}
    if segments := config.get("type_vocab_size"):
        tensors["embeddings.token_type_embeddings.weight"] = np.zeros((segments, table.shape[1]), dtype=np.float32)
    if family != "distilbert":  # transformers would draw one at random; nothing uses it
        width = table.shape[1]
        tensors |= {"pooler.dense.weight": np.zeros((width, width), dtype=np.float32)}
        tensors |= {"pooler.dense.bias": np.zeros(width, dtype=np.float32)}
    norms = {"embeddings.LayerNorm": "embedding"}
    for index in range(config[names.num_layers]):
        ours, theirs = f"layer{index}", f"{names.layer}.{index}"
        for part, left in _LEFT.items():
            weight = weight_of(constants, f"{ours}.{part}", f"{ours}.{left}")
            tensors[f"{theirs}.{getattr(names, part)}.weight"] = np.ascontiguousarray(weight.T)
            bias = constants.arrays[f"{ours}.{part}.bias"]
            tensors[f"{theirs}.{getattr(names, part)}.bias"] = bias.astype(np.float32)
        norms |= {f"{theirs}.{getattr(names, part)}": f"{ours}.{norm}" for part, norm in _NORMS.items()}
    for theirs, ours in norms.items():
        tensors[f"{theirs}.weight"] = constants.arrays[f"{ours}.gain"].astype(np.float32)
        tensors[f"{theirs}.bias"] = constants.arrays[f"{ours}.shift"].astype(np.float32)
    return tensors
