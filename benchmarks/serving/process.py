"""Processes of the benchmark: a server, and scripts that print one line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

START_S, STOP_S = 60, 60
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
"""The first is a server's alone, where there are several: a load generator beside it would make its tail."""
PINNED = len(CPUS) > 1


def on_its_cpus(*, server: bool) -> list[str]:
    """What to put before a command so that it runs on the server's CPU, or on the others."""
    return ["taskset", "-c", ",".join(map(str, CPUS[:1] if server else CPUS[1:]))] if PINNED else []


class Server:
    """`kdserve serve` on its CPU, or on all, and any free port of 127.0.0.1, stopped at the end of the block."""

    def __init__(self, *arguments: object, drain_s: float = 0.0, on_one_cpu: bool = True) -> None:
        command = [sys.executable, "-m", "kdserve.cli", "serve", *map(str, arguments)]
        self._command = [
            *(on_its_cpus(server=True) if on_one_cpu else []),
            *command,
            "--port",
            "0",
            "--set",
            f"drain_s={drain_s}",
        ]

    def __enter__(self) -> Server:
        began = time.monotonic()
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self._command, stderr=self._log, text=True)
        while self.process.poll() is None and time.monotonic() - began < START_S:
            self._log.seek(0)
            first = self._log.readline()
            if first.endswith("\n") and first.startswith("{"):
                self.ready_s = time.monotonic() - began
                self.port, self.pid = int(json.loads(first)["url"].rpartition(":")[2]), self.process.pid
                return self
            time.sleep(0.005)
        self._log.seek(0)
        raise RuntimeError(f"the server did not start: {self._log.read()}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._log.close()

    def peak_memory_bytes(self) -> int:
        """The highest resident memory so far, where the system tells (Linux does), else the present one."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return int(psutil.Process(self.pid).memory_info().rss)

    def memory_bytes(self) -> int:
        """Resident memory. Where the system tells (Linux does), pages that are mapped twice count once: each session
        of a graph maps the same weights."""
        path, largest, key = Path(f"/proc/{self.pid}/smaps"), dict[tuple[str, ...], int](), ("",)
        if not path.exists():
            return int(psutil.Process(self.pid).memory_info().rss)
        for line in path.read_text().splitlines():
            name, *rest = line.split()
            if name == "Rss:":
                largest[key] = max(largest.get(key, 0), int(rest[0]) * 1024)
            elif not name.endswith(":"):  # addresses, rights, offset, device, inode; memory of no file is itself alone
                key = tuple(rest[1:4]) if rest[3] != "0" else (name,)
        return sum(largest.values())


class Refuser:
    """`refusing.py` in a server's place."""

    def __enter__(self) -> Refuser:
        command = [*on_its_cpus(server=True), sys.executable, str(Path(__file__).parent / "refusing.py")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port, self.pid = int(self._process.stdout.readline()), self._process.pid
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()


def run_json(script: Path, *arguments: object) -> dict[str, Any]:
    """Run a script beside the server and read the last line that it prints."""
    command = [*on_its_cpus(server=False), sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record
