"""Weights stay where they are: in the model's file, mapped into memory, not copied from it.

onnxruntime maps tensors that a graph draws from another file, and copies those inside its own. So the graph is handed
over without its large tensors, each replaced by the place in the very same file where its bytes lie. A process then
holds only the rows of the token table that its texts touch, processes share them, and opening takes far less time.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdserve.errors import FolderError

_SMALLEST = 1 << 16
# Numbers of fields in onnx.proto: ModelProto.graph, GraphProto.initializer, and four of TensorProto.
_GRAPH, _INITIALIZER = 7, 5
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a protobuf message: the bytes [start, end) with its tag, its content from `content` on."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def graph_over_file(model: Path) -> bytes | None:
    """Return the graph of a model's file with its large tensors left there, or None where the file is no protobuf.

    Raises:
        FolderError: the graph draws weights from other files, which nobody verified.
    """
    with model.open("rb") as file:
        if not model.stat().st_size:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _rewrite_model(data, model)
            except (IndexError, ValueError):
                return None


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
        parts.append(_message(_GRAPH, b"".join(inner)))
    return b"".join(parts)


def _rewrite_tensor(data: mmap.mmap, tensor: _Field, model: Path) -> bytes:
    fields = list(_fields(data, tensor.content, tensor.end))
    elsewhere = (f for f in fields if f.number == _DATA_LOCATION and _read_varint(data, f.content)[0])
    if any(f.number == _EXTERNAL_DATA for f in fields) or any(elsewhere):
        raise FolderError(f"{model} draws weights from another file, which is refused; export the bundle again")
    large = next((f for f in fields if f.number == _RAW_DATA and f.end - f.content >= _SMALLEST), None)
    if large is None:
        return data[tensor.start : tensor.end]
    place = {"location": model.name, "offset": str(large.content), "length": str(large.end - large.content)}
    entries = [
        _message(_EXTERNAL_DATA, _message(1, key.encode()) + _message(2, value.encode()))
        for key, value in place.items()
    ]
    others = [data[field.start : field.end] for field in fields if field is not large]
    location = _varint(_DATA_LOCATION << 3 | _VARINT) + _varint(1)
    return _message(_INITIALIZER, b"".join([*others, *entries, location]))


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """Go through the fields of the message at [start, end). Raises IndexError or ValueError where it is none."""
    while start < end:
        tag, content = _read_varint(data, start)
        kind, length = tag & 7, 0
        if kind == _VARINT:
            _, after = _read_varint(data, content)
            length = after - content
        elif kind == _BYTES:
            length, content = _read_varint(data, content)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
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


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
