"""Every command of `kdserve`, gathered from the rooms' modules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from kdserve import __version__
from kdserve.cli import console, index
from kdserve.cli.bench import bench
from kdserve.cli.catalogue import models
from kdserve.cli.classify import classify
from kdserve.cli.distill import distill
from kdserve.cli.embed import embed
from kdserve.cli.evaluate import evaluate
from kdserve.cli.export import export, reopen, trim
from kdserve.cli.grow import grow
from kdserve.cli.neutralise import neutralise
from kdserve.cli.serve import serve
from kdserve.cli.translate import summarise, translate

app = typer.Typer(
    name="kdserve",
    help="Distil a sentence-embedding teacher into a small multilingual student, export it, search with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for makes in (distill, grow, export, reopen, trim, neutralise):
    app.command()(makes)
index.register(app)
for uses in (embed, evaluate, classify, translate, summarise, serve, bench, models):
    app.command()(uses)


class PathsNamed(TyperCommand):
    """A command that takes no empty path: of a variable that is not set it would make the folder that it runs in."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line."""
        has_empty = any(not arg or (arg.startswith("--") and arg.endswith("=")) for arg in args)
        names_here = any(arg and Path(arg.rpartition("=")[2] or arg) == HERE for arg in args)
        rest = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            if has_empty and not names_here and HERE in (value if isinstance(value, list) else [value]):
                raise typer.BadParameter("an empty path names nothing; write . for this folder", param_hint=name)
        return rest


HERE = Path()
for command in (*app.registered_commands, *index.index.registered_commands):
    command.cls = PathsNamed


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
