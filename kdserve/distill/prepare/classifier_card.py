"""The card of a classifier student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdserve.distill.card import Outcome
from kdserve.recipe import Recipe, teacher_name

_EXPECTED = {
    "language": "the language that the corpus says it is in",
    "": "the label that the teacher gives to its source sentence",
}


def write_classifier_card(outcome: Outcome, recipe: Recipe, labels: Sequence[str], path: Path) -> None:
    """Write a classifier's card as Markdown."""
    accuracy, settings = outcome.accuracy, recipe.classifier
    assert settings is not None
    worst, lowest = accuracy.worst
    measured = (
        f"mean {accuracy.mean:.3f} over {len(accuracy.by_language)} languages, lowest {lowest:.3f} ({worst})"
        if accuracy.by_language
        else "too few were held out to measure it by language"
    )
    expected = _EXPECTED.get(settings.mode, _EXPECTED[""])
    teacher = (
        ""
        if settings.mode == "language"
        else f" Its teacher is {teacher_name(settings.teacher or recipe.teacher.model)}."
    )
    lines = [
        f"# {recipe.name}",
        "",
        f"A {recipe.family} classifier ({settings.mode}), made by kdserve from the recipe in `kdserve.json`.{teacher}",
        "",
        f"Labels: {', '.join(labels)}.",
        "",
        f"Share of held-out texts that get {expected}: {measured}; weights of step {outcome.best_step} of "
        f"{recipe.train.steps}.",
        "",
        "| language | texts | held-out accuracy |",
        "|---|---|---|",
    ]
    for language in sorted(set(outcome.num_pairs) | set(accuracy.by_language)):
        pairs, found = outcome.num_pairs.get(language), accuracy.by_language.get(language)
        cells = ["" if pairs is None else f"{pairs:,}", "" if found is None else f"{found:.3f}"]
        lines.append(f"| {language} | {' | '.join(cells)} |")
    lines += ["", "| domain | held-out accuracy |", "|---|---|"]
    lines += [f"| {domain or 'all'} | {value:.3f} |" for domain, value in sorted(accuracy.by_domain.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
