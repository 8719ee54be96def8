"""Translation retrieval by domain, on sentences that no training has seen.

    python benchmarks/domains.py MODEL --recipe RECIPE --data DIR [--candidates 2000]

A sentence counts where the recipe holds its English side out. Each translation looks for its English sentence among
`--candidates` of the same domain, so that figures of large and small domains can be compared; domains that the recipe
leaves out of the training are measured like the others. Leaves the record `domains-<name>`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from records import Table, publish

from kdserve.cli.console import progress_bars
from kdserve.datatypes import Embedder
from kdserve.distill.data.pairs import hash_text
from kdserve.evaluate import Remembering
from kdserve.lines import read_lines
from kdserve.loading import open_model
from kdserve.recipe import Recipe, load_recipe

EVERYDAY = "tatoeba"
MIN_PAIRS = 50


@dataclass(slots=True)
class Domain:
    """Held-out pairs (English, translation, language), and the domain's other English sentences."""

    pairs: list[tuple[str, str, str]] = field(default_factory=list)
    others: set[str] = field(default_factory=set)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=2000)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    domains = read_domains(arguments.data / "parallel", recipe)
    figures = {}
    with progress_bars() as progress:
        embedder = Remembering(open_model(arguments.model, num_threads=1), progress=progress)
        for name, domain in domains.items():
            if len(domain.pairs) >= MIN_PAIRS:
                figures[name] = measure(domain, embedder, arguments.candidates)
    table = make_table(figures, recipe, arguments.candidates)
    name = Path(arguments.model).name
    publish(f"domains-{name}", {"model": name, "domains": figures}, table=table)


def read_domains(folder: Path, recipe: Recipe) -> dict[str, Domain]:
    """Read the third column as the domain; a hash of the English side decides what is held out, as in training."""
    domains: dict[str, Domain] = defaultdict(Domain)
    for language in recipe.languages:
        for _, line in read_lines(folder / f"{language}-en.tsv.gz"):
            english, translation, name = line.split("\t")
            if hash_text(english) % 1000 < recipe.validation.permille:
                domains[name].pairs.append((english, translation, language))
            else:
                domains[name].others.add(english)
    return dict(sorted(domains.items(), key=lambda item: -len(item[1].pairs)))


def measure(domain: Domain, embedder: Embedder, num_candidates: int) -> dict[str, float]:
    """Share of translations whose nearest English sentence is their own, over all pairs."""
    held_out = dict.fromkeys(english for english, _, _ in domain.pairs)
    candidates = [*held_out, *sorted(domain.others, key=hash_text)][:num_candidates]
    rows = {english: row for row, english in enumerate(candidates)}
    pairs = [pair for pair in domain.pairs if pair[0] in rows]
    scores = embedder.encode_query([pair[1] for pair in pairs]) @ embedder.encode_document(candidates).T
    right = scores.argmax(axis=1) == np.array([rows[pair[0]] for pair in pairs])
    languages = len({pair[2] for pair in pairs})
    return {
        "pairs": len(pairs),
        "languages": languages,
        "candidates": len(candidates),
        "accuracy": float(right.mean()),
    }


def make_table(figures: dict[str, dict[str, float]], recipe: Recipe, num_candidates: int) -> Table:
    """The everyday domain first, then from best to worst."""
    left_out = {name for data in recipe.data for name in data.exclude}
    order = sorted(figures, key=lambda name: (name != EVERYDAY, -figures[name]["accuracy"]))
    rows = [
        [
            name + (" (never trained on)" if name in left_out else ""),
            f"{figures[name]['languages']:.0f}",
            f"{figures[name]['pairs']:,.0f}",
            f"{figures[name]['candidates']:,.0f}",
            f"{100 * figures[name]['accuracy']:.1f}",
            f"{figures[name]['accuracy'] / figures[EVERYDAY]['accuracy']:.2f}",
        ]
        for name in order
    ]
    note = (
        f"Share (%) of held-out translations whose nearest English sentence, among {num_candidates:,} of the "
        "domain where it has that many, is their own; all languages together."
    )
    return Table(
        columns=["domain", "languages", "pairs", "candidates", "found", f"of {EVERYDAY}"], rows=rows, note=note
    )


if __name__ == "__main__":
    main()
