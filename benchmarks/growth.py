"""Grow a small student into a larger one, and compare with the larger one trained from nothing.

    python benchmarks/growth.py RECIPE --layers N --width M --work DIR [--picture FILE.png] [--cache DIR]
                                [--share 0.5] [--set KEY=VALUE]

RECIPE has a body of its own: the small student. Four runs over the same data and vocabulary: the small one; one of the
grown size from nothing, for as many steps; the grown one with the small one as guide, and without, for --share of
those steps, at the end of which their learning rate is zero. Accuracy is translation retrieval on the recipe's held-out
sentences, both directions, mean over the languages. A fifth run trains the small one on for as many steps as the grown
ones have: what growth adds is the difference to it. Leaves the record `growth`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from records import Table, write_record

from kdserve.bench.machine import describe_machine
from kdserve.distill import prepare
from kdserve.distill.students.growth import grow
from kdserve.recipe import Recipe, VocabularyRecipe, load_recipe

SMALL, SCRATCH = "small", "grown size, from nothing"
GUIDED, ALONE, ON = "grown, small one as guide", "grown, no guide", "small, trained on"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A training run: held-out accuracy after each `curve[i][0]` steps, and the best of them, which is kept."""

    name: str
    steps: int
    seconds: float
    accuracy: float
    curve: tuple[tuple[int, float], ...]

    def reaches(self, accuracy: float) -> int | None:
        """The first measured step with at least that accuracy."""
        return next((step for step, found in self.curve if found >= accuracy), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--cache", type=Path, help="the teacher's vectors, kept for other runs")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, overrides=options.overrides)
    runs = compare(recipe, options)
    table = make_table(runs, options.share)
    print(table.markdown())
    if options.picture:
        draw(runs, options.picture)
    data = {"runs": [asdict(run) for run in runs], "student": asdict(recipe.student), "train": asdict(recipe.train)}
    print(write_record("growth", data, table=table, machine=describe_machine()))


def compare(recipe: Recipe, options: argparse.Namespace) -> list[Run]:
    body = recipe.student.body
    assert body is not None, "the recipe has no [student.body]"
    small, grown = (options.work.resolve() / name for name in ("small", "grown"))
    runs = [train(SMALL, recipe, options, out=small)]
    shutil.rmtree(grown, ignore_errors=True)
    grow(small, grown, layers=options.layers, width=options.width, seed=recipe.seed)
    times = options.width // body.width
    sizes = {"width": options.width, "layers": options.layers}
    larger = replace(body, **sizes, heads=times * body.heads, feed_forward=times * body.feed_forward)
    runs.append(train(SCRATCH, replace(recipe, student=replace(recipe.student, body=larger)), options))
    shorter = replace(recipe, train=replace(recipe.train, steps=round(options.share * recipe.train.steps)))
    alone = from_student(shorter, grown)
    guided = replace(alone, guide=replace(recipe.guide, student=str(small)))
    runs.append(train(GUIDED, guided, options))
    runs.append(train(ALONE, alone, options))
    runs.append(train(ON, from_student(shorter, small), options))
    return runs


def from_student(recipe: Recipe, folder: Path) -> Recipe:
    """Let a recipe go on from a student, which brings body and vocabulary."""
    student = replace(recipe.student, start=str(folder), body=None)
    return replace(recipe, student=student, vocabulary=VocabularyRecipe())


def train(name: str, recipe: Recipe, options: argparse.Namespace, *, out: Path | None = None) -> Run:
    folder = options.work / "growth"
    shutil.rmtree(folder, ignore_errors=True)
    prepared = replace(prepare(recipe, options.work, cache=options.cache), work=folder)
    started = time.monotonic()
    outcome = prepared.train()
    seconds = round(time.monotonic() - started, 1)
    rows = [json.loads(line) for line in (folder / "train" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    if out:
        shutil.rmtree(out, ignore_errors=True)
        prepared.save(outcome, out)
    run = Run(
        name=name,
        steps=recipe.train.steps,
        seconds=seconds,
        accuracy=round(outcome.accuracy.mean, 4),
        curve=tuple((row["step"], row["accuracy"]) for row in rows),
    )
    print(json.dumps(asdict(run)), flush=True)
    return run


def make_table(runs: Sequence[Run], share: float) -> Table:
    wanted = next(run.accuracy for run in runs if run.name == SCRATCH)
    rows = []
    for run in runs:
        step = run.reaches(wanted)
        reached = "–" if step is None else f"{step} ({step / runs[1].steps:.0%})"
        rows.append([run.name, f"{run.steps}", f"{run.curve[0][1]:.3f}", f"{run.accuracy:.3f}", reached])
    columns = ["student", "steps", "before", "held-out accuracy", "reaches the one from nothing at step"]
    note = f"Grown students train for {share:.0%} of the steps; the small one's own steps are not counted to them."
    return Table(columns=columns, rows=rows, note=note)


def draw(runs: Sequence[Run], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), dpi=110)
    styles = {
        SMALL: ("tab:gray", ":"),
        SCRATCH: ("tab:orange", "-"),
        GUIDED: ("tab:blue", "-"),
        ALONE: ("tab:cyan", "--"),
        ON: ("tab:gray", "--"),
    }
    for run in runs:
        color, style = styles[run.name]
        axis.plot(*zip(*run.curve, strict=True), color=color, linestyle=style, marker=".", label=run.name)
    wanted = next(run.accuracy for run in runs if run.name == SCRATCH)
    axis.axhline(wanted, color="tab:orange", linewidth=0.6)
    lowest = min(found for run in runs for step, found in run.curve if step)
    axis.set(xlabel="step", ylabel="held-out translation accuracy", ylim=(lowest - 0.02, None))
    axis.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
