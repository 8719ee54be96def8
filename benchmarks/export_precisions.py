"""The same weights in every precision: kdserve's exports of the teacher against sentence-transformers, on the CPU.

    python benchmarks/export_precisions.py [--threads 1] [--rounds 5] [--data DIR] [--work DIR] [--no-record]

All take turns on the same texts in one process. Cosines are to sentence-transformers in fp32, on texts that no
calibration has seen; *alone* is the lowest cosine between the vector of a text alone and in a batch. Spearman where
--data holds eval/stsb-multi-mt. --work keeps the exports for the next run.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from records import Table, write_record

from kdserve.bench.threads import thread_environment

if TYPE_CHECKING:
    from kdserve.datatypes import Embedder, Embeddings

TEACHER = "all-MiniLM-L6-v2"
REFERENCE = "sentence-transformers, torch fp32"
PRECISIONS = ("fp32", "w8", "int8", "dynamic-int8")
_ALONE = 128


@dataclass(slots=True)
class Contender:
    """An embedder and what the rounds found."""

    name: str
    embedder: Embedder
    size_bytes: int
    query_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_rates: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="folder of the evaluation sets")
    parser.add_argument("--work", type=Path, default=Path("out/benchmarks"))
    parser.add_argument("--no-record", action="store_true", help="print, and leave benchmarks/results/ alone")
    arguments = parser.parse_args()
    os.environ.update(thread_environment(arguments.threads))  # before torch is imported
    run(arguments)


def run(arguments: argparse.Namespace) -> None:
    from kdserve.bench import sample_workload
    from kdserve.bench.machine import describe_machine
    from kdserve.cli.console import print_json, progress_bars
    from kdserve.evaluate import read_sts, sts_spearman
    from kdserve.samples import parallel

    logging.getLogger("kdserve").setLevel(logging.ERROR)
    contenders = open_all(arguments.work, arguments.threads)
    workload = sample_workload(num_documents=256)
    pairs = read_sts(arguments.data / "eval" / "stsb-multi-mt", languages=["en"])["en"] if arguments.data else []
    texts = list(dict.fromkeys([*(pair.first for pair in pairs), *parallel()["en"], *workload.documents]))
    with progress_bars() as progress:
        for turn in range(arguments.rounds + 1):  # the first warms up
            for step in range(len(contenders)):
                measure(
                    contenders[(turn + step) % len(contenders)], workload.queries, workload.documents, keep=turn > 0
                )
                progress("timing", turn * len(contenders) + step + 1, (arguments.rounds + 1) * len(contenders))
    reference = contenders[0].embedder.encode_document(texts)
    rows = []
    for contender in contenders:
        row = figures(contender, texts, reference)
        if pairs:
            row["sts_en"] = sts_spearman(contender.embedder, pairs)
        rows.append(row)
    machine = describe_machine()
    note = (
        f"{machine.cpu}, {arguments.threads} thread(s) each, {arguments.rounds} interleaved rounds; "
        f"{workload.description}; cosines on {len(texts)} English texts; load average {machine.load_average}; "
        f"{machine.date}."
    )
    table = table_of(rows, note)
    print(table.markdown())
    data = {"rows": rows, "threads": arguments.threads, "rounds": arguments.rounds}
    if not arguments.no_record:
        write_record("export-precisions", data, table=table, machine=machine)
    print_json(data)


def open_all(work: Path, threads: int) -> list[Contender]:
    """The teacher in torch, then its bundles, exported where they are not there yet."""
    from kdserve.distill.teachers.embedder import find_teacher
    from kdserve.export import ExportSettings, export_bundle
    from kdserve.loading import open_model
    from kdserve.runtime import Encoder

    teacher = find_teacher(TEACHER)
    found = [Contender(REFERENCE, open_model(TEACHER, device="cpu", num_threads=threads), size(teacher))]
    for precision in PRECISIONS:
        bundle = work / f"{TEACHER}-{precision}"
        if not bundle.is_dir():
            settings = ExportSettings(precision=precision, min_mean_cosine=0.9, min_cosine=0.8, languages=("en",))
            export_bundle(teacher, bundle, settings=settings)
        found.append(Contender(f"kdserve {precision}", Encoder.load(bundle, num_threads=threads), size(bundle)))
    return found


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(contender: Contender, queries: Sequence[str], documents: Sequence[str], *, keep: bool) -> None:
    calls = []
    for query in queries:
        start = time.perf_counter()
        contender.embedder.encode_query([query])
        calls.append(time.perf_counter() - start)
    start, cpu = time.perf_counter(), time.process_time()
    contender.embedder.encode_document(documents)
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    if keep:
        contender.query_s += calls
        contender.rates.append(len(documents) / wall_s)
        contender.cpu_rates.append(len(documents) / cpu_s)


def figures(contender: Contender, texts: Sequence[str], reference: Embeddings) -> dict[str, Any]:
    vectors = contender.embedder.encode_document(texts)
    cosines = (vectors * reference).sum(axis=1)
    some = texts[:: max(1, len(texts) // _ALONE)]
    together = vectors[:: max(1, len(texts) // _ALONE)]
    alone = np.concatenate([contender.embedder.encode_document([text]) for text in some])
    return {
        "name": contender.name,
        "size_bytes": contender.size_bytes,
        "query_p50_ms": 1000 * median(contender.query_s),
        "texts_per_s": median(contender.rates),
        "texts_per_cpu_s": median(contender.cpu_rates),
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "alone_min_cosine": float((alone * together).sum(axis=1).min()),
        "alone_bit_identical": alone.tobytes() == together.tobytes(),
    }


def table_of(rows: Sequence[dict[str, Any]], note: str) -> Table:
    base = rows[0]
    lines = [
        [
            row["name"],
            f"{row['size_bytes'] / 1e6:.1f}",
            f"{row['query_p50_ms']:.2f} ({base['query_p50_ms'] / row['query_p50_ms']:.1f}×)",
            f"{row['texts_per_s']:,.0f} ({row['texts_per_s'] / base['texts_per_s']:.1f}×)",
            f"{row['texts_per_cpu_s']:,.0f} ({row['texts_per_cpu_s'] / base['texts_per_cpu_s']:.1f}×)",
            f"{row['cosine_mean']:.5f} / {row['cosine_min']:.4f}",
            f"{row['sts_en']:.4f}" if "sts_en" in row else "–",
            "the same bits" if row["alone_bit_identical"] else f"{row['alone_min_cosine']:.4f}",
        ]
        for row in rows
    ]
    columns = ["", "MB", "query p50, ms", "texts/s", "texts per CPU second", "cosine mean / min", "STS en", "alone"]
    return Table(columns=columns, rows=lines, note=note)


if __name__ == "__main__":
    main()
