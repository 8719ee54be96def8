"""Weights in pieces that are small enough to be carried from a GPU machine one by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

PIECE_BYTES = 15_500_000


def save_pieces(tensors: Mapping[str, Tensor], out: Path, name: str) -> None:
    """Write tensors in half precision to OUT/name-0.safetensors and so on; a tensor stays whole."""
    piece: dict[str, Tensor] = {}
    size = number = 0
    for key, tensor in [*tensors.items(), ("", None)]:
        if tensor is None or size + 2 * tensor.numel() > PIECE_BYTES:
            save_file(piece, out / f"{name}-{number}.safetensors")
            piece, size, number = {}, 0, number + 1
        if tensor is not None:
            piece[key] = tensor.detach().to("cpu", torch.float16).contiguous()
            size += 2 * tensor.numel()
