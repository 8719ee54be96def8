"""Weights from safetensors, in one file or in shards."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes  # teaches numpy bfloat16
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from kdserve.errors import FolderError
from kdserve.export.read.foreign import opening
from kdserve.export.read.weights import Array
from kdserve.json_files import read_object

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_FLOATS = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's weights: one, or the shards that its index names.

    Raises:
        FolderError: there are none, or a shard is missing or outside of the folder.
    """
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    if not (folder / INDEX_NAME).is_file():
        if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
            raise FolderError(f"{folder} has no {WEIGHTS_NAME}; pickled weights are never read, convert them first")
        raise FolderError(f"{folder} has no {WEIGHTS_NAME} and no {INDEX_NAME}; download the folder again")
    names = read_object(folder / INDEX_NAME).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise FolderError(f"{folder / INDEX_NAME} has no weight_map of file names; download the folder again")
    shards = sorted(set(names.values()))
    for shard in shards:
        if len(PurePosixPath(shard).parts) != 1 or not (folder / shard).is_file():
            raise FolderError(f"{folder / INDEX_NAME} names {shard}, which is not there; download the folder again")
    return [folder / shard for shard in shards]


def read_stored(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Return every tensor as it is stored."""
    tensors: dict[str, npt.NDArray[Any]] = {}
    for path in weight_files(folder):
        with opening(path, "safetensors"):
            tensors |= load_file(path)
    return tensors


def read_tensors(folder: Path) -> dict[str, Array]:
    """Return every tensor of floats as float32.

    Raises:
        FolderError: a file is missing or damaged, a weight is no number, or stored in 8 bits or fewer.
    """
    floats: dict[str, Array] = {}
    for name, value in read_stored(folder).items():
        if value.dtype in _FLOATS:
            floats[name] = as_finite(name, value, folder)
        elif name.endswith((".weight", ".bias")) or name == "embeddings":  # model2vec's table
            raise FolderError(f"{folder} stores {name} as {value.dtype}; name the folder with its weights unquantised")
    return floats


def as_finite(name: str, value: npt.NDArray[Any], folder: Path) -> Array:
    """Return a tensor as float32. Raises FolderError where a number in it is none."""
    with np.errstate(over="ignore"):
        array: Array = value.astype(np.float32)
    if not np.isfinite(array).all():
        raise FolderError(f"{folder} holds NaN or infinity in {name}; make or download the folder again")
    return array
