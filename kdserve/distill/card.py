"""A student's card, and a picture of its training."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.vocabulary import Coverage
from kdserve.distill.training.validation import Accuracy
from kdserve.recipe import Recipe, teacher_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of a distillation: held-out accuracy, and pairs by language."""

    accuracy: Accuracy
    best_step: int
    num_pairs: Mapping[str, int]
    domains: tuple[str, ...]


def write_card(outcome: Outcome, recipe: Recipe, coverage: Mapping[str, Coverage], path: Path) -> None:
    """Write a student's card as Markdown; `coverage` is that of its vocabulary, by language."""
    accuracy = outcome.accuracy
    worst, lowest = accuracy.worst
    measured = (
        f"Translation retrieval on held-out sentences, both directions averaged: mean {accuracy.mean:.3f} over "
        f"{len(accuracy.by_language)} languages, lowest {lowest:.3f} ({worst})."
        if accuracy.by_language
        else "Too few sentences were held out to measure translation retrieval."
    )
    lines = [
        f"# {recipe.name}",
        "",
        f"A {recipe.family} student of {teacher_name(recipe.teacher.model)}, made by kdserve from the recipe in "
        "`kdserve.json`.",
        "",
        f"{measured} Weights of step {outcome.best_step} of {recipe.train.steps}.",
        "",
        "| language | training pairs | held-out accuracy | tokens a word | bytes, unknown |",
        "|---|---|---|---|---|",
    ]
    for language, cover in sorted(coverage.items()):
        pairs, found = outcome.num_pairs.get(language), accuracy.by_language.get(language)
        cells = ["" if pairs is None else f"{pairs:,}", "" if found is None else f"{found:.3f}"]
        lines.append(f"| {language} | {cells[0]} | {cells[1]} | {cover.tokens_per_word} | {cover.byte_share:.2%} |")
    lines += ["", "| domain | held-out accuracy |", "|---|---|"]
    lines += [f"| {domain or 'all'} | {value:.3f} |" for domain, value in sorted(accuracy.by_domain.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def count_pairs(corpus: Corpus) -> dict[str, int]:
    """Return the number of pairs of each language."""
    return {
        language: int((corpus.language_of == number).sum())
        for number, language in enumerate(corpus.languages)
        if language
    }


def draw_curve(log: Path, path: Path, *, title: str, measure: str) -> None:
    """Draw loss and held-out accuracy over the steps as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure, left = pyplot.subplots(figsize=(7, 4), dpi=110)
    steps = [row["step"] for row in rows]
    left.plot(steps, [row["accuracy"] for row in rows], color="tab:blue", marker=".", label="mean")
    left.plot(steps, [row["worst_accuracy"] for row in rows], color="tab:cyan", marker=".", label="worst language")
    left.set(xlabel="step", ylabel=measure, ylim=(0, 1))
    left.set_title(title, parse_math=False)
    right = left.twinx()
    trained = [row for row in rows if "loss" in row]
    right.plot([r["step"] for r in trained], [r["loss"] for r in trained], color="tab:orange", label="loss")
    right.set_ylabel("loss")
    handles = [line for axis in (left, right) for line in axis.get_lines()]
    left.legend(handles, [str(line.get_label()) for line in handles], loc="lower right")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a title in a script that the font lacks
        figure.tight_layout()
        figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
