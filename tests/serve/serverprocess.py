"""A real server in a process of its own, and a client of the standard library."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BUNDLES = Path(__file__).parents[1] / "runtime" / "bundles"
START_S, STOP_S = 180, 120
MANY = ["a long text of many words that take their time " * 4] * 20_000
"""Work for kdserve-mini that lasts longer than any test, and ends when its client hangs up."""
AT_LENGTH = ["--set", "limits.texts=20_000", "--set", "limits.tokens=10_000_000", "--threads", "1"]
FULL_SOON = [*AT_LENGTH, "--set", "limits.timeout_s=600", "--set", "limits.waiting_tokens=1000"]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ServerProcess:
    """A running server, its log so far, and requests to it."""

    process: subprocess.Popen[str]
    reader: threading.Thread | None = None
    port: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    lines: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)

    def request(
        self, method: str, path: str, body: Any = None, *, key: str = "", headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            sent = dict(headers or {})
            if key:
                sent["Authorization"] = f"Bearer {key}"
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, sent)
            reply = connection.getresponse()
            return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())

    def get(self, path: str, **more: Any) -> Answer:
        return self.request("GET", path, **more)

    def post(self, path: str, body: Any, **more: Any) -> Answer:
        return self.request("POST", path, body, **more)

    def wait_for(self, message: str) -> dict[str, Any]:
        """The next line of the log with that message."""
        while True:
            line = self.lines.get(timeout=START_S)
            if line["message"] == message:
                return line

    def is_full(self) -> bool:
        """Whether `MANY` is being embedded, and most of it waits."""
        waiting = re.search(rb'kdserve_waiting_tokens\{model="kdserve-mini"\} (\S+)', self.get("/metrics").body)
        return waiting is not None and float(waiting[1]) > 100_000

    def stop(self) -> int:
        """End it, and read its log to the end."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_S)
        assert self.reader is not None
        self.reader.join(STOP_S)
        return status


@contextlib.contextmanager
def served(*arguments: str | Path) -> Iterator[ServerProcess]:
    """`kdserve serve` with these arguments on any free port, stopped at the end."""
    command = [sys.executable, "-m", "kdserve.cli", "serve", *map(str, arguments), "--port", "0"]
    if "drain_s" not in " ".join(command):
        command += ["--set", "drain_s=0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    server = ServerProcess(process)

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with contextlib.suppress(ValueError):
                server.log.append(json.loads(line))
                server.lines.put(server.log[-1])
                continue
            server.lines.put({"message": "no JSON", "line": line})

    server.reader = threading.Thread(target=read, daemon=True)
    server.reader.start()
    try:
        server.port = int(server.wait_for("ready")["url"].rpartition(":")[2])
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            server.reader.join(STOP_S)
            assert process.stderr is not None
            process.stderr.close()


def vector_of(item: dict[str, Any]) -> np.ndarray:
    """The vector of an item of an OpenAI reply, whatever its form."""
    given = item["embedding"]
    return np.frombuffer(base64.b64decode(given), "<f4") if isinstance(given, str) else np.array(given, np.float32)


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, for a minute at most."""
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to hold")
