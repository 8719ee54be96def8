"""The conditions of a measurement: hardware, versions, commit, date."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kdserve.runtime.threads import available_threads

PACKAGES = (
    *("kdserve", "numpy", "tokenizers", "onnxruntime", "onnxruntime-gpu", "faiss-cpu"),
    *("torch", "transformers", "sentence-transformers"),
)
_FLAGS = {"avx2", "f16c", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"} | {
    "asimd", "asimddp", "i8mm", "bf16", "sve"
}  # fmt: skip
_INTEGER_PRODUCTS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where and with what a figure was measured; `load_average` is that of the minute before, by other programs too."""

    cpu: str
    cpu_flags: Sequence[str]
    num_cpus: int
    memory_bytes: int
    gpus: Sequence[str]
    system: str
    python: str
    versions: Mapping[str, str]
    commit: str | None
    date: str
    load_average: float

    @property
    def integer_instructions(self) -> list[str]:
        """Instructions of the CPU for 8-bit products; without one of the VNNI, AMX and ARM ones they are slow."""
        return [flag for flag in _INTEGER_PRODUCTS if flag in self.cpu_flags]

    @property
    def hardware(self) -> str:
        """A short name for files: the GPU where there is one, else CPU and the number of threads."""
        name = self.gpus[0] if self.gpus else f"{self.cpu} {self.num_cpus}-cpu"
        return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def describe_machine() -> Machine:
    """Look at this machine."""
    fields = _cpu_fields()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return Machine(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        cpu_flags=sorted(flags & _FLAGS),
        num_cpus=available_threads(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=_lines("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: version for name in PACKAGES if (version := _version(name))},
        commit=_commit(),
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        load_average=round(os.getloadavg()[0], 2),
    )


def _cpu_fields() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source checkout, with a plus where files differ; None for an installed wheel."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    head = _lines("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = _lines("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return head[0] + ("+" if changed else "") if head else None


def _lines(*command: str) -> list[str]:
    """Lines that a program prints, none where it is not installed or fails."""
    if not shutil.which(command[0]):
        return []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
