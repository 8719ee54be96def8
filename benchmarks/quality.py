"""A model's quality language by language: translation retrieval on Tatoeba v1, similarity on the STS benchmark.

    python benchmarks/quality.py MODEL --data DIR

MODEL is a published name or a bundle or student folder; DIR holds eval/tatoeba-v1 and eval/stsb-multi-mt. Leaves the
record `quality-<name>`, whose table stands in the model's card.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from records import Table, publish

from kdserve.cli.console import progress_bars
from kdserve.evaluate import Remembering, Section, evaluate_sts, evaluate_translation, read_sts, read_tatoeba
from kdserve.loading import open_model

MAIN = "de fr es ru cs tr zh ja it pt nl sv uk pl fi ko hu ro da ar he bg el".split()  # noqa: SIM905


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    model = open_model(arguments.model, num_threads=1)
    weak = set(getattr(model, "weak_languages", ()))
    languages = weak | set(getattr(model, "languages", ())) - {"en"}
    tatoeba = read_tatoeba(arguments.data / "eval" / "tatoeba-v1")
    covered = [pairs for language, pairs in sorted(tatoeba.items()) if not languages or language in languages]
    with progress_bars() as progress:
        embedder = Remembering(model, progress=progress)
        (translation,) = evaluate_translation(embedder, covered, progress=progress)
        similarity = evaluate_sts(embedder, read_sts(arguments.data / "eval" / "stsb-multi-mt"), progress=progress)[0]
    table = quality_table(translation, similarity, weak=weak)
    sections = {"translation": asdict(translation), "similarity": asdict(similarity)}
    name = Path(arguments.model).name
    sections["weak_languages"] = sorted(weak)
    publish(f"quality-{name}", {"model": name, **sections}, table=table)


def quality_table(translation: Section, similarity: Section, *, weak: Collection[str] = ()) -> Table:
    """One row a language, the means first, languages that are promised less last."""
    rows = [
        _mean_row(f"mean of {len(MAIN)} main languages", translation, MAIN),
        _mean_row(f"mean of all {len(translation.figures)}", translation, list(translation.figures)),
    ]
    others = [value for language, value in similarity.figures.items() if language != "en"]
    rows[1][4] = f"{sum(others) / len(others):.3f} (without en)"
    languages = {*translation.figures, *similarity.figures}
    for language in sorted(languages, key=lambda code: (code in weak, code)):
        cells = [_percent(column.get(language)) for column in translation.columns.values()]
        sts = similarity.figures.get(language)
        rows.append(
            [
                f"{language} (weak)" if language in weak else language,
                *cells,
                _percent(translation.figures.get(language)),
                "" if sts is None else f"{sts:.3f}",
            ]
        )
    note = (
        "Tatoeba v1: share of sentences (%) whose nearest neighbour by cosine is their translation, at most 1,000 a "
        "language. STS benchmark test (machine-translated by its authors): Spearman correlation of cosine and score."
    )
    return Table(columns=["language", *translation.columns, "mean", "STS"], rows=rows, note=note)


def _mean_row(title: str, section: Section, languages: list[str]) -> list[str]:
    found = [language for language in languages if language in section.figures]
    columns = [*section.columns.values(), section.figures]
    return [title, *(_percent(sum(column[x] for x in found) / len(found)) for column in columns), ""]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
