"""Shared by every command: progress bars on stderr, results on stdout."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kdserve.errors import MissingExtraError

if TYPE_CHECKING:
    from rich.table import Table

    from kdserve.datatypes import Progress

_SECONDS_BETWEEN_LINES = 10.0
_WIDEST = 10_000
"""Columns of a table; no row is padded to it."""
_quiet = False
_WHITE = re.compile(r"\s")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield a progress callback: a bar with ETA for each task on a terminal, a line now and then in a log."""
    if _quiet or not sys.stderr.isatty():
        yield _progress_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield show


def _progress_lines() -> Progress:
    """Write a line at most every `_SECONDS_BETWEEN_LINES` for each task, and one at its end."""
    began: dict[str, float] = {}
    written: dict[str, float] = {}

    def show(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        began.setdefault(what, now)
        ended = total > 0 and done >= total
        if not ended and now - written.setdefault(what, now) < _SECONDS_BETWEEN_LINES:
            return
        if written.get(what) == float("inf"):
            return
        written[what] = float("inf") if ended else now
        elapsed = now - began[what]
        left = f", {elapsed * (total - done) / done:.0f} s left" if done and not ended and total else ""
        say(f"{what}: {done:,}{f' of {total:,}' if total else ''} after {elapsed:.0f} s{left}")

    return show


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Say which extra a package that is missing inside the block, or the decorated function, belongs to.

    Raises:
        MissingExtraError: a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError((error.name or extra).partition(".")[0], extra) from error


def plain(text: str) -> str:
    """The text in one line, character for character: white space is a space, and what could drive a terminal a
    replacement character.
    """
    return _CONTROL.sub("\ufffd", _WHITE.sub(" ", text))


class OneLine(logging.Formatter):
    """Records of a log as `plain` lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return plain(super().format(record))


def print_row(*cells: str) -> None:
    """Write one line of cells with tabs between to stdout: white space inside a cell becomes one space, and what could
    drive a terminal (control characters, directional overrides) a replacement character. `--json` has them as they are.
    """
    sys.stdout.write("\t".join(_CONTROL.sub("\ufffd", " ".join(cell.split())) for cell in cells) + "\n")


def print_line(text: str) -> None:
    """Write one line to stdout, as `plain` has it."""
    sys.stdout.write(plain(text) + "\n")


def print_json(record: object) -> None:
    """Write one line of JSON to stdout."""
    sys.stdout.write(json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n")


def new_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table: columns flush left, then columns flush right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=plain(title), title_justify="left", box=SIMPLE_HEAD)
    for name in left:
        table.add_column(plain(name))
    for name in right:
        table.add_column(plain(name), justify="right")
    return table


def print_whole(*parts: Table | str) -> None:
    """Write tables and paragraphs to stdout as wide as they are, also where a terminal is narrower: a figure that is
    cut to "8…" is another one. What stands in square brackets is no markup, as names come from folders and files.
    """
    from rich.console import Console

    console = Console(width=_WIDEST, markup=False, emoji=False, highlight=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def flush() -> None:
    """Let who reads stdout have what was written: before more is waited for."""
    sys.stdout.flush()


def say(message: str) -> None:
    """Write one line for the user to stderr, but not under `--quiet`."""
    if not _quiet:
        sys.stderr.write(plain(message) + "\n")


def say_error(error: Exception) -> None:
    """Write one line about what is wrong to stderr, where the command goes on all the same; under `--quiet` too."""
    sys.stderr.write(f"kdserve: {plain(str(error))}\n")


def be_quiet(quiet: bool) -> None:
    """Write what `say` says and progress, or do not."""
    global _quiet
    _quiet = quiet
