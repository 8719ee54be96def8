"""kdserve grow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kdserve.cli.console import needs_extra, print_json, say


@needs_extra("distill")
def grow(
    student: Annotated[Path, typer.Argument(help="The folder of a transformer student.")],
    out: Annotated[Path, typer.Option(help="The grown student's folder; must not exist.")],
    layers: Annotated[int, typer.Option(help="Number of layers; 0: as many as now.")] = 0,
    width: Annotated[int, typer.Option(help="Width, a multiple of the present one; 0: as now.")] = 0,
    seed: Annotated[int, typer.Option(help="Random seed of how copies of a unit share its weight.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Make a student deeper and wider without changing its vectors: a start for training a larger one."""
    from kdserve.distill.students.growth import grow as run

    growth = run(student, out, layers=layers, width=width, seed=seed)
    if json:
        print_json({"student": str(out), **asdict(growth)})
    else:
        before, after = growth.before, growth.after
        typer.echo(f"{before.layers} → {after.layers} layers, width {before.width} → {after.width}")
        typer.echo(f"largest difference of the vectors: {growth.max_difference:.1e}")
    start, guide = (str(folder.resolve()) for folder in (out, student))  # as recipes' paths are relative to their data
    say(f"next: kdserve distill RECIPE with student.start = {start!r} and guide.student = {guide!r}")
