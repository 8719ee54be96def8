"""kdserve distill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer

from kdserve.cli.console import needs_extra, print_json, progress_bars, say
from kdserve.errors import FolderError
from kdserve.recipe import Recipe, SequenceRecipe

_BUNDLES = {"bundle": "one that embeds", "classifier": "a classifier", "translator": "one that writes"}


@needs_extra("distill")
def distill(
    recipe: Annotated[Path, typer.Argument(help="A recipe in TOML.")],
    out: Annotated[Path, typer.Option(help="The student's folder; must not exist.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: --set train.steps=20", metavar="KEY=VALUE")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep the teacher's vectors or outputs here for other runs.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Make a small multilingual student of a teacher, as a recipe says. A run that was stopped goes on."""
    from kdserve.recipe import load_recipe

    loaded = load_recipe(recipe, overrides=overrides or [])

    from kdserve.distill import distill as run

    try:
        with progress_bars() as progress:
            outcome = run(loaded, out, cache=cache, open_bundles=open_published, progress=progress)
    except KeyboardInterrupt:
        if (work := out.with_name(f"{out.name}.work")).exists() and not out.exists():
            say(f"{work} keeps what was made so far; the same command goes on from there")
        raise
    accuracy = outcome.accuracy
    worst, lowest = accuracy.worst
    writes = isinstance(loaded, SequenceRecipe)
    measure = "chrF" if writes else "accuracy"
    mean, least = (f"{100 * one:.1f}" if writes else f"{one:.3f}" for one in (accuracy.mean, lowest))
    measured = f"held-out {measure} {mean}, lowest {least} ({worst})"
    unmeasured = f"too few held-out pairs to measure its {measure}"
    say(f"{out}: {measured if accuracy.by_language else unmeasured}; {kept_weights(loaded, outcome.best_step)}")
    say(f"next: kdserve export {quote(str(out))} --out BUNDLE")
    if json:
        print_json(
            {
                "student": str(out),
                "best_step": outcome.best_step,
                "accuracy": {"mean": accuracy.mean, "languages": dict(accuracy.by_language)},
                "domains": dict(accuracy.by_domain),
            }
        )


def kept_weights(recipe: Recipe | SequenceRecipe, best_step: int) -> str:
    """Which weights became the student, and what to do where training gave none."""
    if isinstance(recipe, Recipe) and recipe.classifier and recipe.classifier.mode == "zero-shot":
        return "zero-shot: only the head was trained"
    kept = f"weights of step {best_step} of {recipe.train.steps}"
    if best_step == 0 < recipe.train.steps:
        kept += (
            " (training gave no better than the start: lower the rates or train for more steps; where the start saw "
            "the held-out pairs, validation.permille=0 keeps the last weights instead)"
        )
    return kept


def open_published(recipe: Recipe | SequenceRecipe, beside: Path) -> Recipe | SequenceRecipe:
    """Open the bundles that a recipe names as teacher, start, guide or encoder below `beside`; return it so changed.

    They are published ones, or folders that lie where the recipe's data do. Of several processes the first opens them.

    Raises:
        FolderError: such a bundle is of a kind that does not go there.
    """
    from kdserve.distill.hardware import processes
    from kdserve.manifest import kind_of, read_manifest
    from kdserve.runtime.published import find_bundle, published_names

    def opened(key: str, name: str, *kinds: Literal["bundle", "translator"]) -> str:
        folder = Path(recipe.data_dir) / name
        again = folder.resolve().name
        if name in published_names("any"):
            folder = find_bundle(name, kind="any")
        found = kind_of(folder) if name else None
        if found not in _BUNDLES:
            return name
        for kind in kinds:
            if found == kind:
                student = beside.resolve() / read_manifest(folder, kind=kind).fingerprint[:12] / again
                if not student.is_dir():
                    from kdserve.export import reopen_bundle

                    reopen_bundle(folder, student)
                return str(student)
        raise FolderError(f"{key} is {name}, {_BUNDLES[found]}; name {' or '.join(_BUNDLES[kind] for kind in kinds)}")

    with processes().main_process_first():
        if isinstance(recipe, SequenceRecipe):
            own = recipe.student
            encoder = opened("student.encoder", own.encoder, "bundle", "translator")
            begun = replace(own, encoder=encoder, start=opened("student.start", own.start, "translator"))
            return replace(recipe, student=begun)
        student, teacher = recipe.student, recipe.teacher
        return replace(
            recipe,
            student=replace(student, start=opened("student.start", student.start, "bundle")),
            teacher=replace(teacher, model=opened("teacher.model", teacher.model, "bundle")),
            guide=replace(recipe.guide, student=opened("guide.student", recipe.guide.student, "bundle")),
        )
