"""Weights stay where they are: in the model's file, mapped into memory, not copied from it.

onnxruntime maps tensors that a graph draws from another file, and copies those inside its own. So the graph is handed
over without its large tensors, each replaced by the place in the very same file where its bytes lie. Processes then
share one copy, which the system may drop when memory is short, and opening takes far less time.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdserve.errors import FolderError
from kdserve.runtime.protobuf import BYTES, FIXED32, FIXED64, VARINT, bytes_field, number_field

_SMALLEST = 1 << 16
_LONGEST_NUMBER = 19
# Numbers of fields in onnx.proto: ModelProto.graph, GraphProto.initializer, and three of TensorProto.
_GRAPH, _INITIALIZER = 7, 5
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_TENSOR = "TensorProto"
_HOLDERS = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR,
        6: "GraphProto",
        10: _TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
}
"""Which fields of which messages lead to a tensor, by number: everywhere that a model can hold one."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a protobuf message: the bytes [start, end) with its tag, its content from `content` on."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def graph_over_file(model: Path, *, weights: Path | None = None) -> bytes:
    """Return the graph of a model's file with its large tensors left there.

    Tensors may lie in `weights` instead, a verified file beside it, where there is one.

    Raises:
        FolderError: the file is no ONNX graph, or the graph draws weights from other files, which nobody verified.
    """
    try:
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if _draws_from_elsewhere(data, weights):
                raise FolderError(f"{model} draws weights from another file, which is refused; export the bundle again")
            return _rewrite_model(data, model)
    except (IndexError, ValueError) as error:  # an empty file cannot be mapped
        raise FolderError(f"{model} is no ONNX graph ({error}); export the bundle again") from error
    except OSError as error:
        raise FolderError(f"{model} cannot be read ({error.strerror}); export the bundle again") from error


def _draws_from_elsewhere(data: mmap.mmap, weights: Path | None) -> bool:
    """Look at every tensor, wherever it is nested: initializers, attributes, branches, functions, training."""
    place = _place_inside(weights) if weights else None
    pending = [("ModelProto", 0, len(data))]
    while pending:
        message, start, end = pending.pop()
        if message == _TENSOR and place is not None and not place(data, start, end):
            return True
        for field in _fields(data, start, end):
            if message == _TENSOR:
                moved = field.number == _DATA_LOCATION and data[field.content : field.end] != b"\0"
                if place is None and (moved or field.number == _EXTERNAL_DATA):
                    return True
            elif field.kind == BYTES and (inner := _HOLDERS[message].get(field.number)):
                pending.append((inner, field.content, field.end))
    return False


def _place_inside(weights: Path) -> Callable[[mmap.mmap, int, int], bool]:
    """Return what says whether the tensor at [start, end) lies in its own file, or in `weights` as a whole."""
    size = weights.stat().st_size

    def is_inside(data: mmap.mmap, start: int, end: int) -> bool:
        entries = [field for field in _fields(data, start, end) if field.number == _EXTERNAL_DATA]
        pairs = [
            {part.number: data[part.content : part.end] for part in _fields(data, entry.content, entry.end)}
            for entry in entries
        ]
        if not pairs:
            return True
        told = {pair.get(1): pair.get(2, b"") for pair in pairs}
        if told.keys() != {b"location", b"offset", b"length"} or len(pairs) != len(told):
            return False
        is_number = all(told[key].isdigit() and len(told[key]) < _LONGEST_NUMBER for key in (b"offset", b"length"))
        return (
            told[b"location"] == weights.name.encode()
            and is_number
            and int(told[b"offset"]) + int(told[b"length"]) <= size
        )

    return is_inside


def _rewrite_model(data: mmap.mmap, model: Path) -> bytes:
    parts = []
    for field in _fields(data, 0, len(data)):
        if field.number != _GRAPH:
            parts.append(data[field.start : field.end])
            continue
        inner = [
            _rewrite_tensor(data, one, model) if one.number == _INITIALIZER else data[one.start : one.end]
            for one in _fields(data, field.content, field.end)
        ]
        parts.append(bytes_field(_GRAPH, b"".join(inner)))
    return b"".join(parts)


def _rewrite_tensor(data: mmap.mmap, tensor: _Field, model: Path) -> bytes:
    fields = list(_fields(data, tensor.content, tensor.end))
    raw = [field for field in fields if field.number == _RAW_DATA]
    if len(raw) != 1 or raw[0].kind != BYTES or raw[0].end - raw[0].content < _SMALLEST:
        return data[tensor.start : tensor.end]
    large = raw[0]
    place = {"location": model.name, "offset": str(large.content), "length": str(large.end - large.content)}
    entries = [
        bytes_field(_EXTERNAL_DATA, bytes_field(1, key.encode()) + bytes_field(2, value.encode()))
        for key, value in place.items()
    ]
    others = [data[field.start : field.end] for field in fields if field is not large]
    return bytes_field(_INITIALIZER, b"".join([*others, *entries, number_field(_DATA_LOCATION, 1)]))


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """Go through the fields of the message at [start, end). Raises IndexError or ValueError where it is none.

    Groups, which no version of ONNX has, are no fields here: a parser could skip over what this walk would not see.
    """
    while start < end:
        tag, content = _read_varint(data, start)
        kind, length = tag & 7, 0
        if kind == VARINT:
            _, after = _read_varint(data, content)
            length = after - content
        elif kind == BYTES:
            length, content = _read_varint(data, content)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"there is no kind {kind} of field")
        if content + length > end:
            raise ValueError("a field ends after its message")
        yield _Field(tag >> 3, kind, start, content, content + length)
        start = content + length


def _read_varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, and where it ends."""
    value = 0
    for position in range(start, start + 10):
        byte = data[position]
        value |= (byte & 127) << 7 * (position - start)
        if byte < 128:
            return value, position + 1
    raise ValueError("a number does not end")
