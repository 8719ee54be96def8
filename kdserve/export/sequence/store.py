"""Weights of several graphs in one file, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto

from kdserve.runtime.sequence.settings import WEIGHTS_NAME

_ALIGNMENT = 64
_SMALLEST = 1024


def write_graphs(graphs: Mapping[str, onnx.ModelProto], folder: Path) -> None:
    """Write graphs under their names into `folder`, their larger tensors into one file beside them, equal ones once.

    Takes the tensors' bytes out of the graphs.
    """
    places: dict[bytes, tuple[int, int]] = {}
    with (folder / WEIGHTS_NAME).open("wb") as file:
        for name, model in graphs.items():
            for tensor in model.graph.initializer:
                content = tensor.raw_data
                if len(content) < _SMALLEST:
                    continue
                key = hashlib.sha256(content).digest()
                if key not in places:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    places[key] = file.tell(), len(content)
                    file.write(content)
                offset, length = places[key]
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                for entry, value in (("location", WEIGHTS_NAME), ("offset", offset), ("length", length)):
                    tensor.external_data.add(key=entry, value=str(value))
            (folder / name).write_bytes(model.SerializeToString(deterministic=True))
