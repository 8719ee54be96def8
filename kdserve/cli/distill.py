"""kdserve distill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdserve.cli.console import needs_extra, print_json, progress_bars, say


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.command()(distill)


@needs_extra("distill")
def distill(
    recipe: Annotated[Path, typer.Argument(help="A recipe in TOML.")],
    out: Annotated[Path, typer.Option(help="The student's folder; must not exist.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: --set train.steps=20", metavar="KEY=VALUE")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Keep the teacher's vectors here for other runs.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Make a small multilingual student of a teacher, as a recipe says. A run that was stopped goes on."""
    from kdserve.recipe import load_recipe

    loaded = load_recipe(recipe, overrides=overrides or [])

    from kdserve.distill import distill as run

    try:
        with progress_bars() as progress:
            outcome = run(loaded, out, cache=cache, progress=progress)
    except KeyboardInterrupt:
        say(f"{out}.work keeps what was made so far; the same command goes on from there")
        raise
    accuracy = outcome.accuracy
    worst, lowest = accuracy.worst
    measured = f"held-out accuracy {accuracy.mean:.3f}, lowest {lowest:.3f} ({worst})"
    unmeasured = "too few held-out pairs to measure its accuracy"
    kept = f"weights of step {outcome.best_step} of {loaded.train.steps}"
    if outcome.best_step == 0 < loaded.train.steps:
        kept += " (training gave no better than the start: lower the rates or train for more steps)"
    say(f"{out}: {measured if accuracy.by_language else unmeasured}; {kept}; next: kdserve export {out}")
    if json:
        print_json(
            {
                "student": str(out),
                "best_step": outcome.best_step,
                "accuracy": {"mean": accuracy.mean, "languages": dict(accuracy.by_language)},
                "domains": dict(accuracy.by_domain),
            }
        )
