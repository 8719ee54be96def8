"""How much faster two threads, or more, embed a list than one does.

    python benchmarks/threads.py [--models kdserve-static,kdserve-mini] [--texts 256,2048] [--threads 2]

One thread and several take turns on the same shuffled sample sentences; figures are medians of the ratios of turns.
Beside them what the machine itself allows: as many processes of one thread each, started together, in the same turns.
Vectors must be the same bits. On a machine that others use too run it as `chrt -f 5 python benchmarks/threads.py`
(root): it then gets the cores for the seconds that it takes. Leaves the record `threads`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from multiprocessing.synchronize import Barrier
from statistics import median

from records import Table, publish

from kdserve import Encoder, samples

TURNS = 9
LEAST_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="kdserve-static,kdserve-mini")
    parser.add_argument("--texts", default="256,2048")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows, figures = [], []
    for model in options.models.split(","):
        for num_texts in map(int, options.texts.split(",")):
            found = measure(model, num_texts, options.threads)
            figures.append({"model": model, "texts": num_texts, **found})
            cells = [f"{found['one']:,.0f}", f"{found['several']:,.0f}", f"{found['ratio']:.2f}×"]
            rows.append([model, str(num_texts), *cells, f"{found['processes']:.2f}×"])
    note = (
        f"{options.threads} threads, {os.cpu_count()} CPUs; medians of {TURNS} turns; load average "
        f"{os.getloadavg()[0]:.2f}. Processes: what as many of one thread each give together over one alone."
    )
    columns = ["model", "texts a call", "1 thread, texts/s", f"{options.threads} threads", "ratio", "processes"]
    table = Table(columns=columns, rows=rows, note=note)
    publish("threads", {"figures": figures}, table=table)


def measure(model: str, num_texts: int, num_threads: int) -> dict[str, float]:
    """Texts a second with one thread and with several, the ratio, and that of processes."""
    texts = sentences(num_texts)
    one, several = (Encoder.load(model, num_threads=number) for number in (1, num_threads))
    if one.encode_document(texts).tobytes() != several.encode_document(texts).tobytes():
        sys.exit(f"{model}: {num_threads} threads give other vectors than one")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num_threads)
    others = [context.Process(target=keep_pace, args=(model, num_texts, barrier)) for _ in range(num_threads - 1)]
    for other in others:
        other.start()
    turns = []
    for _ in range(TURNS):
        alone, together = rate(one, texts), rate(several, texts)
        barrier.wait()
        beside = rate(one, texts)
        barrier.wait()
        turns.append((alone, together, together / alone, num_threads * beside / alone))
    for other in others:
        other.join()
    ones, rates, ratios, processes = zip(*turns, strict=True)
    return {"one": median(ones), "several": median(rates), "ratio": median(ratios), "processes": median(processes)}


def keep_pace(model: str, num_texts: int, barrier: Barrier) -> None:
    """What the other processes do: embed between the barriers."""
    encoder, texts = Encoder.load(model, num_threads=1), sentences(num_texts)
    for _ in range(TURNS):
        barrier.wait()
        rate(encoder, texts)
        barrier.wait()


def rate(encoder: Encoder, texts: list[str]) -> float:
    """Texts a second, over as many calls as take a tenth of a second."""
    started, calls = time.perf_counter(), 0
    while (taken := time.perf_counter() - started) < LEAST_S or not calls:
        encoder.encode_document(texts)
        calls += 1
    return calls * len(texts) / taken


def sentences(num_texts: int) -> list[str]:
    found = [text for texts in samples.parallel().values() for text in texts]
    random.Random(0).shuffle(found)
    return (found * (num_texts // len(found) + 1))[:num_texts]


if __name__ == "__main__":
    main()
