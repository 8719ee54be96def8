"""Time the teacher's weights in every peer, and kdserve's bundles, interleaved on the same texts and threads.

    python benchmarks/peers/run.py --work DIR [--threads 1] [--rounds 5] [--data DIR] [--bundle FOLDER_OR_NAME...]

Needs make_environments.py before. Every peer is a process of its own in its own environment, open all the time and idle
while others run. Quality is the cosine to sentence-transformers in fp32, and Spearman on the STS benchmark where
--data holds eval/stsb-multi-mt. What does not run is named with its reason.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from records import Table, write_record  # noqa: E402
from teacher_vs_student import teacher_int8  # noqa: E402

from kdserve.bench import sample_workload  # noqa: E402
from kdserve.bench.contenders import label  # noqa: E402
from kdserve.bench.machine import describe_machine  # noqa: E402
from kdserve.bench.threads import thread_environment  # noqa: E402
from kdserve.cli.console import print_json, progress_bars  # noqa: E402
from kdserve.evaluate import StsPair, read_sts, spearman  # noqa: E402
from kdserve.runtime import published_names  # noqa: E402
from kdserve.runtime.published import find_bundle  # noqa: E402

REFERENCE = "sentence-transformers torch fp32"
SIZES = (1, 32, 256)


class PeerFailed(Exception):
    """A peer's process ended; the text is its last line of error."""


@dataclass(slots=True)
class Peer:
    """A worker process, and what the rounds found. `model` is what its files are called in the table."""

    name: str
    process: subprocess.Popen[str]
    errors: Any
    cold_start_s: float = 0.0
    query_s: list[float] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    cpu_rates: list[float] = field(default_factory=list)

    def ask(self, command: dict[str, Any] | None) -> dict[str, Any]:
        """Send a command (None: just wait for the first answer)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            if command is not None:
                self.process.stdin.write(json.dumps(command) + "\n")
                self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            raise PeerFailed((self.errors.read().strip().splitlines() or ["no message"])[-1])
        reply: dict[str, Any] = json.loads(answer)
        return reply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--bundle", action="append", default=[], help="default: the teacher's and every published one")
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("kdserve").setLevel(logging.ERROR)
    work = arguments.work.resolve()
    bundles = arguments.bundle or [str(teacher_int8(work)), *published_names()]
    peers, absent = start_all(work, arguments.threads, bundles)
    workload = sample_workload(num_documents=max(SIZES))
    with progress_bars() as progress:
        for turn in range(arguments.rounds):
            for step in range(len(peers)):
                measure(peers[(turn + step) % len(peers)], workload.queries, workload.documents)
                progress("timing", turn * len(peers) + step + 1, arguments.rounds * len(peers))
    pairs = read_sts(arguments.data / "eval" / "stsb-multi-mt", languages=["en"])["en"] if arguments.data else []
    rows = add_quality([figures(peer) for peer in peers], peers, list(workload.documents), pairs)
    machine = describe_machine()
    conditions = (
        f"{machine.cpu}, {arguments.threads} thread(s) each, {arguments.rounds} interleaved rounds; "
        f"{workload.description}; load average {machine.load_average}; {machine.date}."
    )
    table = table_of(rows, absent, conditions)
    print(table.markdown())
    data = {"rows": rows, "absent": absent, "threads": arguments.threads, "environments": versions(work)}
    if not arguments.no_record:
        write_record("peers", data, table=table, machine=machine)
    print_json(data)
    for peer in peers:
        peer.process.stdin.close()  # type: ignore[union-attr]
        peer.process.wait()


def start_all(work: Path, threads: int, bundles: Sequence[str]) -> tuple[list[Peer], dict[str, str]]:
    """Start every peer, one after another; returns those that answer, and the reasons of those that do not."""
    peers, absent = [], {}
    wanted = [(f"kdserve {find_bundle(bundle).resolve()}", sys.executable) for bundle in bundles]
    for name, environment in tomllib.loads((HERE / "environments.toml").read_text(encoding="utf-8")).items():
        python = work / "environments" / name / "bin" / "python"
        for peer in environment["peers"]:
            if python.is_file():
                wanted.append((peer, str(python)))
            else:
                absent[peer] = f"environment {name} was not made"
    for name, python in wanted:
        try:
            peers.append(start(name, python, work, threads))
        except PeerFailed as error:
            absent[name] = str(error)
    return peers, absent


def start(name: str, python: str, work: Path, threads: int) -> Peer:
    environment = os.environ | thread_environment(threads) | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 lives with the process
    begin = time.perf_counter()
    process = subprocess.Popen(
        [python, str(HERE / "worker.py"), name, str(work), str(threads)],
        env=environment | {"TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        encoding="utf-8",
    )
    peer = Peer(name=name, process=process, errors=errors)
    peer.ask(None)
    peer.cold_start_s = time.perf_counter() - begin
    return peer


def measure(peer: Peer, queries: Sequence[str], documents: Sequence[str]) -> None:
    peer.query_s += peer.ask({"time": list(queries), "size": 1})["calls_s"]
    num_texts, cpu_s = 0, 0.0
    for size in SIZES:
        answer = peer.ask({"time": list(documents), "size": size})
        peer.rates.setdefault(size, []).append(len(documents) / sum(answer["calls_s"]))
        num_texts, cpu_s = num_texts + len(documents), cpu_s + answer["cpu_s"]
    peer.cpu_rates.append(num_texts / cpu_s)


def figures(peer: Peer) -> dict[str, Any]:
    name = peer.name
    if name.startswith("kdserve /"):
        name = f"kdserve {label(name.removeprefix('kdserve '))}"
    p50, p95, p99 = np.percentile(np.array(peer.query_s) * 1000, [50, 95, 99])
    return {
        "name": name,
        "query_p50_ms": float(p50),
        "query_p95_ms": float(p95),
        "query_p99_ms": float(p99),
        "texts_per_s": {str(size): median(rates) for size, rates in peer.rates.items()},
        "texts_per_cpu_s": median(peer.cpu_rates),
        "cold_start_s": peer.cold_start_s,
        **peer.ask({"memory": True}),
    }


def add_quality(
    rows: list[dict[str, Any]], peers: Sequence[Peer], documents: list[str], pairs: Sequence[StsPair]
) -> list[dict[str, Any]]:
    """Cosine to the reference on the documents, where the width is the same, and Spearman on STS."""
    with tempfile.TemporaryDirectory() as folder:

        def vectors(peer: Peer, texts: list[str]) -> np.ndarray:
            peer.ask({"encode": texts, "to": f"{folder}/vectors.npy"})
            rows: np.ndarray = np.load(f"{folder}/vectors.npy").astype(np.float32)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        reference = next((vectors(peer, documents) for peer in peers if peer.name == REFERENCE), None)
        for row, peer in zip(rows, peers, strict=True):
            own = vectors(peer, documents)
            if reference is not None and own.shape == reference.shape:
                cosines = (own * reference).sum(axis=1)
                row |= {"cosine_mean": float(cosines.mean()), "cosine_min": float(cosines.min())}
            if pairs:
                first, second = (vectors(peer, [getattr(pair, side) for pair in pairs]) for side in ("first", "second"))
                row["sts_en"] = spearman((first * second).sum(axis=1), [pair.score for pair in pairs])
    return rows


def table_of(rows: Sequence[dict[str, Any]], absent: dict[str, str], conditions: str) -> Table:
    """Fastest first; in brackets times faster than the reference."""
    base = next((row for row in rows if row["name"] == REFERENCE), rows[0])
    lines = []
    for row in sorted(rows, key=lambda row: -row["texts_per_cpu_s"]):
        rates = [f"{row['texts_per_s'][str(size)]:,.0f}" for size in SIZES]
        gain = row["texts_per_cpu_s"] / base["texts_per_cpu_s"]
        lines.append(
            [
                row["name"],
                f"{row['query_p50_ms']:.2f}",
                *rates,
                f"{row['texts_per_cpu_s']:,.0f} ({gain:,.1f}×)",
                f"{row['cold_start_s']:.1f}",
                f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else "–",
                f"{row['cosine_mean']:.4f} / {row['cosine_min']:.3f}" if "cosine_mean" in row else "–",
                f"{row['sts_en']:.4f}" if "sts_en" in row else "–",
            ]
        )
    columns = ["", "query p50, ms", *(f"texts/s, {size} a call" for size in SIZES), "texts per CPU second"]
    columns += ["cold start, s", "peak memory, MB", "cosine to the teacher, mean / min", "STS en"]
    missing = "".join(f" {name} did not run: {reason}." for name, reason in absent.items())
    return Table(columns=columns, rows=lines, note=conditions + missing)


def versions(work: Path) -> dict[str, list[str]]:
    """What is installed in each environment."""
    found = {}
    for python in sorted(work.glob("environments/*/bin/python")):
        done = subprocess.run([str(python), "-m", "pip", "freeze"], capture_output=True, text=True, check=False)
        found[python.parents[1].name] = [line for line in done.stdout.splitlines() if "@" not in line]
    return found


if __name__ == "__main__":
    main()
