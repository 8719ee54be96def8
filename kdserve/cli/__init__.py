"""The command line: it composes the rooms and decides nothing.

Results go to stdout, progress and messages to stderr. Exit 0; 1 for a KdserveError, as one line; 2 for usage; 130 and
143 after SIGINT (Ctrl-C) and SIGTERM, with one line and no half-made folder. Each module here holds the commands of one
room and imports that room inside the command, so that `kdserve --help` stays quick.
"""

from __future__ import annotations

import _thread
import errno
import importlib
import io
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdserve.cli.commands import app as app


def __getattr__(name: str) -> Any:
    if name == "app":
        return importlib.import_module("kdserve.cli.commands").app
    raise AttributeError(f"module 'kdserve.cli' has no attribute {name!r}")


def main() -> None:
    """Run the command line; the console script `kdserve`. What takes long to import is imported in here."""
    _open_closed_streams()
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def again(lost: sys.UnraisableHookArgs) -> None:
        if received and isinstance(lost.exc_value, KeyboardInterrupt):  # inside a finaliser, which swallows it
            threading.Timer(0.01, _thread.interrupt_main, received[:1]).start()
        else:
            sys.__unraisablehook__(lost)

    sys.unraisablehook = again
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell starts what runs in the background
            signal.signal(number, stop)
    try:
        _run()
    except BaseException:  # libraries turn the interrupt into whatever they like
        if not received:
            raise
        sys.stderr.write("kdserve: stopped\n")
        sys.exit(128 + received[0])


def _run() -> None:
    from kdserve.errors import KdserveError, MissingExtraError

    try:
        import typer  # noqa: F401
    except ModuleNotFoundError as missing:  # the console script of an install without the cli extra
        sys.exit(f"kdserve: {MissingExtraError(missing.name or 'typer', 'cli')}")
    from kdserve.cli.commands import app
    from kdserve.cli.console import OneLine, plain

    _refuse_undecoded_arguments()
    log = logging.StreamHandler()
    log.setFormatter(OneLine())
    logging.basicConfig(handlers=[log])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files that are no UTF-8 come out as they came in
    try:
        app()
    except KdserveError as error:
        sys.exit(f"kdserve: {plain(str(error))}")
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        sys.exit(0)  # who reads has had enough, as `head`, which click ends with 1 and without a word
    except OSError as error:  # no path of the user's is worth a traceback, wherever it was first touched
        name = plain(str(error.filename or "standard output, or a file,"))
        advice = "make room" if error.errno == errno.ENOSPC else "check the path"
        sys.exit(f"kdserve: {name} cannot be used ({error.strerror or error}); {advice}")
    except UnicodeEncodeError as error:
        part = error.object[error.start : error.end]
        if error.encoding != "utf-8":
            sys.exit(f"kdserve: standard output is {error.encoding}, without {part!r}; set PYTHONIOENCODING=utf-8")
        sys.exit(f"kdserve: a name or text holds {part!r}, which is no valid Unicode; rename the file or fix the text")


def _refuse_undecoded_arguments() -> None:
    """End where Python was told to read the command line in an encoding that has not all of its letters. Where that is
    UTF-8, what is none may still name a file."""
    encoding = sys.getfilesystemencoding()
    for argument in sys.argv[1:] if encoding != "utf-8" else []:
        if any("\udc80" <= character <= "\udcff" for character in argument):
            shown = os.fsencode(argument).decode(errors="replace")
            sys.exit(f"kdserve: {shown!r} cannot be read as {encoding}, the encoding set here; set PYTHONUTF8=1")


def _open_closed_streams() -> None:
    """Give a command that was started without standard input, output or errors (`<&-`) those of /dev/null, as daemons
    have: else the next file that it opens would be taken for one of them, and libraries fail."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
