"""The command line: it composes the rooms and decides nothing.

Results go to stdout, progress and messages to stderr. Exit 0; 1 for a KdserveError, as one line; 2 for usage.
Each module here holds the commands of one room and imports that room inside the command, so that
`kdserve --help` stays quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

from kdserve import __version__
from kdserve.errors import KdserveError, MissingExtraError

try:
    import typer
except ImportError as missing:  # the console script of an install without the cli extra
    sys.exit(f"kdserve: {MissingExtraError(missing.name or 'typer', 'cli')}")

from kdserve.cli import bench, catalogue, classify, distill, evaluate, grow, serve
from kdserve.cli import export as export
from kdserve.cli import index as index

app = typer.Typer(
    name="kdserve",
    help="Distil a sentence-embedding teacher into a small multilingual student, export it, search with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for room in (distill, grow, export, index, evaluate, classify, serve, bench, catalogue):
    room.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"kdserve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options of no command: `--version`."""


def main() -> None:
    """Run the command line; the console script `kdserve`."""
    try:
        app()
    except KdserveError as error:
        sys.exit(f"kdserve: {error}")
    except KeyboardInterrupt:
        sys.exit("kdserve: stopped")
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
