"""A graph opened once for each thread that runs it at the same time.

Threads in one session draw their buffers from one arena, and each then works in memory that lies in the other's cache:
two threads took up to 1.35 times the CPU time of one for the same batches, with a session each the same
(`benchmarks/LOG.md`; `benchmarks/threads.py` has it in texts a second). Weights are mapped from the file, so that
sessions share them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdserve.errors import FolderError
from kdserve.runtime.session import Device, Output, Session


class Sessions:
    """At most `most` sessions of one graph; the first is opened now, the others when threads need them.

    Where another cannot be had (there are enough, the file is not the one that the first was opened from, one is being
    opened), threads share the first.
    """

    def __init__(self, model: Path, *, device: Device, output: Output, most: int) -> None:
        """Open the first. Raises as `Session`."""
        self._model, self._device, self._output = model, device, output
        self._known = _identity(model)
        self._first = Session(model, device=device, output=output)
        self._free = [self._first]
        self._to_open = most - 1
        self._opening = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[Session]:
        """Lend a session that no other thread has, as far as there is one."""
        try:
            session = self._free.pop()
        except IndexError:
            another = self._open()
            if another is None:
                yield self._first
                return
            session = another
        try:
            yield session
        finally:
            self._free.append(session)

    def _open(self) -> Session | None:
        if not self._to_open or not self._opening.acquire(blocking=False):
            return None
        try:
            if self._to_open and _identity(self._model) == self._known:
                session = Session(self._model, device=self._device, output=self._output)
                if _identity(self._model) == self._known:
                    self._to_open -= 1
                    return session
            self._to_open = 0
        except FolderError:  # replaced meanwhile
            self._to_open = 0
        finally:
            self._opening.release()
        return None


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced; nothing where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
