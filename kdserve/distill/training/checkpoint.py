"""Checkpoints of a training run: one safetensors file, replaced whole, so that a kill leaves the last good one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kdserve.disk import sync_path
from kdserve.errors import FolderError

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """How far a run is; `key` says of which recipe and data, `best` is the best validation accuracy so far."""

    key: str
    step: int
    best: float
    best_step: int


def save_checkpoint(path: Path, tensors: Tensors, state: RunState) -> None:
    """Write tensors and progress; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    record = json.dumps(asdict(state))
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, {"run": record})
    except SafetensorError as error:  # a full disk, mostly
        raise FolderError(f"{path} cannot be written ({error}); free some space and run the same again") from error
    sync_path(partial)
    partial.replace(path)
    sync_path(path.parent)


def load_checkpoint(path: Path, *, key: str) -> tuple[Tensors, RunState] | None:
    """Read a checkpoint of the same run; None where there is none.

    Raises:
        FolderError: the file is damaged, or belongs to another recipe or other data.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = RunState(**json.loads(file.metadata()["run"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{path} is damaged ({error}); remove it to train from the start") from error
    if state.key != key:
        raise FolderError(f"{path} belongs to another recipe or other data; remove {path.parent} to start anew")
    return tensors, state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Flatten an optimizer's state: "optimizer.3.exp_avg" and so on."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value)
        for number, values in state.items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put a flattened state back."""
    record = optimizer.state_dict()
    record["state"] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            record["state"].setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict(record)
