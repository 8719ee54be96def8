"""Bitext mining: how many true pairs `kdserve mine` finds between two shuffled texts, half of which is noise.

    python benchmarks/mining.py --data DIR [--bundle kdserve-static] [--languages de,fr,es,ru,zh] [--pairs 5000]

DIR holds parallel/<language>-en.tsv.gz. Pairs are drawn from one source that the bundle was not trained on (the third
column, `wmt-news` by default); as many other sentences of that source are added to each side, without their
translations. Leaves the record `mining-<name>`.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

from records import Table, publish

from kdserve.cli.console import progress_bars
from kdserve.datatypes import Embedder
from kdserve.lines import read_lines
from kdserve.runtime import Encoder
from kdserve.search import mine

DEFAULT_MARGIN = 1.06


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """F1, precision and recall at the best margin and at the default one, and the seconds that mining took."""

    best_margin: float
    best_f1: float
    f1: float
    precision: float
    recall: float
    num_pairs: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default="kdserve-static")
    parser.add_argument("--languages", default="de,fr,es,ru,zh")
    parser.add_argument("--source", default="wmt-news")
    parser.add_argument("--pairs", type=int, default=5_000)
    options = parser.parse_args()
    encoder = Encoder.load(options.bundle)
    figures = {}
    for language in options.languages.split(","):
        path = options.data / "parallel" / f"{language}-en.tsv.gz"
        figures[language] = measure(read_pairs(path, options.source), options.pairs, encoder)
        print(language, figures[language], flush=True)
    table = make_table(figures, options.bundle, options.source)
    data = {"bundle": options.bundle, "languages": {name: asdict(some) for name, some in figures.items()}}
    publish(f"mining-{Path(options.bundle).name}", data, table=table)


def read_pairs(path: Path, source: str) -> list[tuple[str, str]]:
    """Pairs (other, English) of one source; a sentence that comes twice counts once."""
    pairs: dict[str, str] = {}
    english_seen = set()
    for _, line in read_lines(path):
        english, other, found = line.split("\t")
        if found == source and english not in english_seen and other not in pairs:
            english_seen.add(english)
            pairs[other] = english
    return list(pairs.items())


def measure(pairs: list[tuple[str, str]], num_pairs: int, encoder: Embedder) -> Figures:
    """Mine between shuffled sides of which half are pairs, and compare with the truth."""
    chance = random.Random(0)
    chance.shuffle(pairs)
    num_pairs = min(num_pairs, len(pairs) // 3)
    true, noise_a, noise_b = pairs[:num_pairs], pairs[num_pairs : 2 * num_pairs], pairs[2 * num_pairs : 3 * num_pairs]
    a = [other for other, _ in (*true, *noise_a)]
    b = [english for _, english in (*true, *noise_b)]
    chance.shuffle(a)
    chance.shuffle(b)
    started = time.perf_counter()
    with progress_bars() as progress:
        mined = list(mine(a, b, encoder, min_score=0.0, progress=progress))
    seconds = time.perf_counter() - started
    truth = set(true)
    right = list(accumulate((pair.source, pair.target) in truth for pair in mined))
    f1_by_rank = [2 * found / (rank + len(truth)) for rank, found in enumerate(right, 1)]
    best = max(range(len(mined)), key=lambda rank: f1_by_rank[rank])
    kept = sum(pair.score >= DEFAULT_MARGIN for pair in mined)
    found = right[kept - 1] if kept else 0
    return Figures(
        best_margin=mined[best].score,
        best_f1=f1_by_rank[best],
        f1=2 * found / (kept + len(truth)),
        precision=found / max(1, kept),
        recall=found / len(truth),
        num_pairs=len(truth),
        seconds=seconds,
    )


def make_table(figures: dict[str, Figures], bundle: str, source: str) -> Table:
    rows = [
        [
            f"{language}-en",
            f"{some.num_pairs:,}",
            f"{some.best_f1:.3f}",
            f"{some.best_margin:.2f}",
            f"{some.f1:.3f}",
            f"{some.precision:.3f}",
            f"{some.recall:.3f}",
            f"{some.seconds:.0f}",
        ]
        for language, some in figures.items()
    ]
    note = (
        f"{bundle} on sentences of {source}, which it was not trained on: each side has as many sentences without a "
        f"translation as with one, shuffled; ratio margin over 4 neighbours. F1, precision and recall at the default "
        f"margin of {DEFAULT_MARGIN}."
    )
    columns = ["", "true pairs", "best F1", "at margin", "F1", "precision", "recall", "seconds"]
    return Table(columns=columns, rows=rows, note=note)


if __name__ == "__main__":
    main()
