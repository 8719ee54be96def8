"""What every command shares: progress bars on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdserve.datatypes import Progress


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield a progress callback that draws a bar with ETA for each task on stderr; plain where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield show


def print_json(record: object) -> None:
    """Write one line of JSON to stdout."""
    sys.stdout.write(json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n")


def say(message: str) -> None:
    """Write one line for the user to stderr."""
    sys.stderr.write(message + "\n")
