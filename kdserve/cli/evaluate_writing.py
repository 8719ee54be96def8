"""`kdserve evaluate` of a bundle that writes: BLEU and chrF by sacrebleu, and what readers notice first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from kdserve.errors import DataError

if TYPE_CHECKING:
    from kdserve.evaluate import TranslationPairs, WritingFigures


def is_writer(model: str) -> bool:
    """Say whether a model is a translator's or summariser's bundle, by its folder or published name."""
    from kdserve.manifest import kind_of
    from kdserve.runtime.published import published_names

    return kind_of(Path(model)) == "translator" if Path(model).is_dir() else model in published_names("translator")


def evaluate_writer(
    model: str, pairs: Sequence[TranslationPairs], *, languages: Sequence[str], threads: int | None, json: bool
) -> None:
    """Write for all sources, compare with the targets, print a row for each domain and language."""
    from kdserve.cli.console import print_json, progress_bars
    from kdserve.evaluate import measure_writing
    from kdserve.runtime import Translator

    translator = Translator.load(model, num_threads=threads)
    target = next(iter(translator.targets), "")
    judged = list(pairs) or _samples(languages or translator.languages, target)

    def write(texts: Sequence[str]) -> list[str]:
        return translator.translate(texts)

    with progress_bars() as progress:
        rows = measure_writing(write, judged, target=target, progress=progress)
    if json:
        print_json({"model": model, "fingerprint": translator.fingerprint, "rows": [asdict(row) for row in rows]})
        return
    _print(model, rows)


def _samples(languages: Sequence[str], target: str) -> list[TranslationPairs]:
    from kdserve import samples
    from kdserve.evaluate import TranslationPairs

    corpus = samples.parallel()
    if target not in corpus or not (known := [code for code in languages if code in corpus and code != target]):
        raise DataError(
            "the sample corpus has no references for this; name --pairs with columns language, source, target"
        )
    return [
        TranslationPairs(domain="samples", language=code, sources=corpus[code], targets=corpus[target])
        for code in known
    ]


def _print(model: str, rows: Sequence[WritingFigures]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=model, title_justify="left", box=SIMPLE_HEAD)
    for name in ("domain", "language"):
        table.add_column(name)
    for name in ("pairs", "BLEU", "chrF", "ROUGE-L", "empty %", "circles %", "numbers lost %"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.domain, row.language, str(row.num_pairs), *_cells([row]))
    for domain in dict.fromkeys(row.domain for row in rows):
        own = [row for row in rows if row.domain == domain]
        table.add_row(domain, f"mean ({len(own)})", str(sum(row.num_pairs for row in own)), *_cells(own), style="bold")
    console = Console()
    console.print(table)
    for name, signature in rows[0].signatures.items():
        console.print(f"{name}: {signature}", highlight=False, soft_wrap=True)


def _cells(rows: Sequence[WritingFigures]) -> list[str]:
    means = [f"{fmean(getattr(row, name) for row in rows):.1f}" for name in ("bleu", "chrf", "rouge_l")]
    shares = [f"{100 * fmean(getattr(row, name) for row in rows):.2f}" for name in ("empty", "circles")]
    numbers, lost = sum(row.num_numbers for row in rows), sum(row.numbers_lost for row in rows)
    return [*means, *shares, f"{100 * lost / numbers:.1f}" if numbers else "–"]
