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
    judged = list(pairs) or _samples(languages, translator.languages, target)

    def write(texts: Sequence[str]) -> list[str]:
        return translator.translate(texts)

    with progress_bars() as progress:
        rows = measure_writing(write, judged, target=target, progress=progress)
    if json:
        print_json({"model": model, "fingerprint": translator.fingerprint, "rows": [asdict(row) for row in rows]})
        return
    _print(model, rows)


def _samples(chosen: Sequence[str], languages: Sequence[str], target: str) -> list[TranslationPairs]:
    from kdserve import samples
    from kdserve.evaluate import TranslationPairs

    corpus = samples.parallel()
    if missing := [code for code in chosen if code not in corpus]:
        raise DataError(f"the sample corpus has no {', '.join(missing)}; it has {', '.join(corpus)}")
    known = [code for code in chosen or languages if code in corpus and code != target]
    if target not in corpus or not known:
        raise DataError(
            "the sample corpus has no references for this; name --pairs with columns language, source, target"
        )
    return [
        TranslationPairs(domain="samples", language=code, sources=corpus[code], targets=corpus[target])
        for code in known
    ]


def _print(model: str, rows: Sequence[WritingFigures]) -> None:
    from kdserve.cli.console import new_table, plain, print_whole

    figures = ["pairs", "BLEU", "chrF", "ROUGE-L", "empty %", "circles %", "numbers lost %", "names lost %"]
    table = new_table(model, ["domain", "language"], figures)
    for row in rows:
        table.add_row(plain(row.domain), plain(row.language), str(row.num_pairs), *_cells([row]))
    for domain in dict.fromkeys(row.domain for row in rows):
        own = [row for row in rows if row.domain == domain]
        count = str(sum(row.num_pairs for row in own))
        table.add_row(plain(domain), f"mean ({len(own)})", count, *_cells(own), style="bold")
    print_whole(table, *(f"{name}: {signature}" for name, signature in rows[0].signatures.items()))


def _cells(rows: Sequence[WritingFigures]) -> list[str]:
    means = [f"{fmean(getattr(row, name) for row in rows):.1f}" for name in ("bleu", "chrf", "rouge_l")]
    shares = [f"{100 * fmean(getattr(row, name) for row in rows):.2f}" for name in ("empty", "circles")]
    return [*means, *shares, *(_lost(rows, what) for what in ("numbers", "names"))]


def _lost(rows: Sequence[WritingFigures], what: str) -> str:
    count, lost = (sum(getattr(row, name) for row in rows) for name in (f"num_{what}", f"{what}_lost"))
    return f"{100 * lost / count:.1f}" if count else "–"
