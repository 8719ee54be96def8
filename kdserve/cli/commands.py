"""Every command of `kdserve`, gathered from the rooms' modules."""

from __future__ import annotations

from typing import Annotated

import typer

from kdserve import __version__
from kdserve.cli import (
    bench,
    catalogue,
    classify,
    console,
    distill,
    embed,
    evaluate,
    grow,
    neutralise,
    serve,
    translate,
)
from kdserve.cli import export as export
from kdserve.cli import index as index

app = typer.Typer(
    name="kdserve",
    help="Distil a sentence-embedding teacher into a small multilingual student, export it, search with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for room in (distill, grow, export, neutralise, index, embed, evaluate, classify, translate, serve, bench, catalogue):
    room.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"kdserve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Neither progress nor reports on stderr, only what is wrong.")
    ] = False,
) -> None:
    """Hold the options of no command: `--version`, `--quiet`."""
    console.be_quiet(quiet)
    context.call_on_close(lambda: console.be_quiet(False))
