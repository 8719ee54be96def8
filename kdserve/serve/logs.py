"""One JSON object a line on stderr, for every log of the process."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from queue import Full, Queue
from threading import Thread
from typing import Any, TextIO

import msgspec

MOST_LINES = 10_000
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """A record as JSON: time, level, message, and what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class Aside(logging.Handler):
    """Writes lines from a thread of its own, so that nobody waits for whoever reads them. What a stalled reader leaves
    no room for is dropped, and counted in the log."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream, self._lines, self._num_dropped = stream, Queue[str | None](MOST_LINES), 0
        self._thread = Thread(target=self._write, name="kdserve-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over."""
        try:
            self._lines.put_nowait(self.format(record))
        except Full:
            self._num_dropped += 1

    def close(self) -> None:
        """Write what waits, within a second."""
        with contextlib.suppress(Full):
            self._lines.put_nowait(None)
        self._thread.join(1.0)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            dropped, self._num_dropped = self._num_dropped, 0
            if dropped:
                line += f'\n{{"level":"warning","message":"lines dropped","num":{dropped}}}'
            with contextlib.suppress(OSError, ValueError):  # nobody reads, or the stream is closed
                self._stream.write(line + "\n")
                self._stream.flush()


def log_to_stderr() -> None:
    """Send all logs of this process to stderr, as JSON: ours from info on, others' from warnings on."""
    handler = Aside(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    logging.getLogger("kdserve.serve").setLevel(logging.INFO)
