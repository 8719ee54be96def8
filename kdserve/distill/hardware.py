"""Devices and processes of this machine."""

from __future__ import annotations

import torch
from accelerate import PartialState

from kdserve.errors import EncodeError


def best_device() -> str:
    """Return "cuda" where there is a GPU, else "cpu".

    On a GPU, cuDNN's attention is turned off: it plans each new shape anew, and batches of texts have many (a step of
    training, of new shapes throughout, took 835 ms with it and 60 ms without on an H200 with torch 2.11).
    """
    if not torch.cuda.is_available():
        return "cpu"
    torch.backends.cuda.enable_cudnn_sdp(False)
    return "cuda"


def require_device(device: str) -> str:
    """Return the device's name when torch can compute there.

    Raises:
        EncodeError: it is none of "cpu" and "cuda", or there is no GPU.
    """
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise EncodeError(f"there is no device {device!r} here; name cpu or cuda")
    if device != "cpu" and not torch.cuda.is_available():
        raise EncodeError(f"torch {torch.__version__} finds no GPU here; check the driver, or use --device cpu")
    return device


def supports_bf16(device: torch.device) -> bool:
    """Tell whether bf16 is computed by the hardware there, not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities.startswith("AVX512") and bool(torch.cpu._is_avx512_bf16_supported())


def processes() -> PartialState:
    """Return the processes of this run: one, or those that torchrun or accelerate started."""
    return PartialState(cpu=best_device() == "cpu")
