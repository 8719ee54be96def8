"""Several processes behind one door: started, watched, told of signals, and stopped together."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

from prometheus_client.multiprocess import mark_process_dead

from kdserve.errors import KdserveError, RecipeError
from kdserve.serve.metrics import FOLDER
from kdserve.serve.settings import ServerSettings

CANNOT_START = 3
BETWEEN_STARTS_S = 1.0
AFTER_STOP_S = 5.0
"""How much longer than it should a process may take to stop, before it is killed."""
_spawn = multiprocessing.get_context("spawn")
_logger = logging.getLogger("kdserve.serve")
RunHere = Callable[[ServerSettings, socket.socket], None]


def supervise(settings: ServerSettings, door: socket.socket, run_here: RunHere) -> None:
    """Keep `settings.processes` processes at work until SIGTERM or SIGINT; one that dies is started again.

    Raises:
        RecipeError: a process could not start; its log says why.
    """
    with tempfile.TemporaryDirectory(prefix="kdserve-metrics-") as folder:
        os.environ[FOLDER] = folder
        _Family(settings, door, run_here).live()


class _Family:
    def __init__(self, settings: ServerSettings, door: socket.socket, run_here: RunHere) -> None:
        self._settings, self._arguments = settings, (settings, door, run_here)
        self._stopping = self._is_bearing = False
        self._children: list[SpawnProcess] = []

    def live(self) -> None:
        """Start, watch, stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        signal.signal(signal.SIGHUP, lambda *_: self._tell(signal.SIGHUP))
        try:
            while len(self._children) < self._settings.processes and not self._stopping:
                self._children.append(self._bear())
            while not self._stopping:
                wait([child.sentinel for child in self._children], timeout=0.5)
                self._replace_the_dead()
        finally:
            self._stop()
            patience_s = self._settings.drain_s + self._settings.stop_s + AFTER_STOP_S
            deadline = time.monotonic() + patience_s
            for child in self._children:
                child.join(max(0.0, deadline - time.monotonic()))
                if child.is_alive():
                    child.kill()

    def _bear(self) -> SpawnProcess:
        child = _spawn.Process(target=_live_as_child, args=self._arguments)
        self._is_bearing = True
        child.start()
        self._is_bearing = False
        return child

    def _replace_the_dead(self) -> None:
        for place, child in enumerate(self._children):
            if child.is_alive() or self._stopping:
                continue
            assert child.pid is not None
            mark_process_dead(child.pid)  # type: ignore[no-untyped-call]
            if child.exitcode == CANNOT_START:
                raise RecipeError("a process of the server could not start; the line before says why")
            _logger.error("a process died; another takes its place", extra={"pid": child.pid, "exit": child.exitcode})
            time.sleep(BETWEEN_STARTS_S)
            if not self._stopping:
                self._children[place] = self._bear()

    def _stop(self) -> None:
        self._stopping = True
        if not self._is_bearing:  # a signal came while a child is given the door
            self._arguments[1].close()  # the children have their own
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for child in self._children:
            if child.is_alive() and child.pid is not None:
                os.kill(child.pid, number)


def _live_as_child(settings: ServerSettings, door: socket.socket, run_here: RunHere) -> None:
    try:
        run_here(settings, door)
    except KdserveError as error:
        sys.stderr.write(f"kdserve: {error}\n")
        sys.exit(CANNOT_START)
