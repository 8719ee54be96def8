"""What HTTP costs beside the bare encoder, and how a server bears load, overload, SIGTERM and new generations.

    python benchmarks/serve.py --seconds 3 --rounds 3                    costs, percentiles, overload, start; a record
    python benchmarks/serve.py --trials 200                             SIGTERMs and index swaps under load, alone
    python benchmarks/serve.py --peers WORK                             beside other servers; see peers/serve.py

Server, load generator and bare encoder are processes of their own, and take turns in one run. The server has one CPU
for itself and one encoder thread, so that CPU seconds compare; the load generator has the other CPUs. Texts are the
3,840 sentences of the sample corpus, one a request unless said otherwise, asked for in base64; every reply is compared
with the encoder's own vector. Under overload at most 2,000 requests are open; what would be more is not sent.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records import Table, write_record
from serving.load import WARM_S
from serving.process import PINNED, Refuser, Server, run_json
from serving.trials import sigterm_trials, swap_trials

from kdserve import Encoder
from kdserve.bench.machine import describe_machine
from kdserve.samples import parallel

HERE = Path(__file__).parent
BUNDLES = ("kdserve-static", "kdserve-mini")
CAPACITY_SHARE, OVERLOAD = 0.8, 10
PAUSE_S = 0.0001  # about what passes between a reply and the next request of a lone client
WAITING = {"kdserve-mini": 4096}


CALM = (
    ("calm p50, ms", "p50", "{:.1f}"),
    ("calm p99, ms", "p99", "{:.1f}"),
    ("calm p99, of p50", "p99 of p50", "{:.1f}×"),
    ("calm, event loop kept from its CPU, ms a second", "waited", "{:.0f}"),
)
STARTS = (
    ("ready after, s", "ready_s", "{:.2f}"),
    ("memory at the start, MB", "start_mb", "{:.0f}"),
    ("memory after load, MB", "load_1_mb", "{:.0f}"),
    ("memory after load with two encoder threads, MB", "load_2_mb", "{:.0f}"),
)


@dataclass
class Figures:
    """What the rounds gave for one bundle."""

    bare_alone_us: list[float] = field(default_factory=list)
    bare_paused_us: list[float] = field(default_factory=list)
    bare_listed_us: list[float] = field(default_factory=list)
    alone_us: list[float] = field(default_factory=list)
    crowded_us: list[float] = field(default_factory=list)
    crowded_per_s: list[float] = field(default_factory=list)
    listed_us: list[float] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(some) for name, some in vars(self).items() if isinstance(some, list)}


def write_requests(folder: Path, bundle: str, texts: Sequence[str], size: int) -> Path:
    """Requests of `size` texts each, with the vector that the last one of each must have."""
    path = folder / f"{bundle}-{size}.json"
    if not path.exists():
        vectors = Encoder.load(bundle).encode_document(texts)
        requests = []
        for start in range(0, len(texts) - size + 1, size):
            given: Any = list(texts[start : start + size]) if size > 1 else texts[start]
            body = json.dumps({"input": given, "model": bundle, "encoding_format": "base64"})
            expected = base64.b64encode(vectors[start + size - 1].tobytes()).decode()
            requests.append({"body": body, "expected": expected})
        path.write_text(json.dumps({"path": "/v1/embeddings", "requests": requests}), encoding="utf-8")
    return path


def load(server: Server | Refuser, requests: Path, **how: float) -> dict[str, Any]:
    flags = [part for name, value in how.items() for part in (f"--{name}", str(value))]
    done = run_json(HERE / "serving" / "load.py", server.port, requests, "--pid", server.pid, *flags)
    assert not done["wrong"], f"{done['wrong']} replies were wrong"
    return done


def bare(bundle: str, texts: Path, size: int, seconds: float, *, pause_s: float = 0.0) -> float:
    """CPU microseconds a text of the encoder alone."""
    how = ("--texts", size, "--seconds", seconds, "--pause", pause_s)
    done = run_json(HERE / "serving" / "bare.py", bundle, texts, *how)
    return float(done["cpu_s"] / done["texts"] * 1e6)


def cost_us(done: dict[str, Any], texts: int = 1) -> float:
    """CPU microseconds of the server a text."""
    return float(done["cpu_s"] / (sum(done["by_status"].values()) * texts) * 1e6)


def measure_costs(bundle: str, work: Path, texts: Sequence[str], given: argparse.Namespace) -> Figures:
    """The bare encoder and the server in turns."""
    figures, listed = Figures(), work / "texts.json"
    listed.write_text(json.dumps(list(texts)), encoding="utf-8")
    single, lists = write_requests(work, bundle, texts, 1), write_requests(work, bundle, texts, 32)
    with Server(bundle, "--threads", 1) as server:
        load(server, single, clients=32, seconds=1)
        for _ in range(given.rounds):
            figures.bare_alone_us.append(bare(bundle, listed, 1, given.seconds))
            figures.bare_paused_us.append(bare(bundle, listed, 1, given.seconds, pause_s=PAUSE_S))
            figures.alone_us.append(cost_us(load(server, single, clients=1, seconds=given.seconds)))
            figures.bare_listed_us.append(bare(bundle, listed, 32, given.seconds))
            done = load(server, single, clients=32, seconds=given.seconds)
            figures.crowded_us.append(cost_us(done))
            figures.crowded_per_s.append(done["by_status"]["200"] / done["seconds"])
            figures.listed_us.append(cost_us(load(server, lists, clients=4, seconds=given.seconds), texts=32))
    return figures


def measure_load(bundle: str, work: Path, texts: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """Percentiles at 80 % of the capacity of the moment, and what ten times it does: one text a request, and 16."""
    found: dict[str, Any] = {}
    for size in (1, 16):
        requests = write_requests(work, bundle, texts, size)
        calm, capacities = [], []
        with Server(bundle, "--threads", 1) as server:
            load(server, requests, clients=32, seconds=1)
            for _ in range(given.rounds):
                peak = load(server, requests, clients=32, seconds=given.seconds)
                capacities.append(peak["by_status"]["200"] / peak["seconds"])
                calm.append(load(server, requests, rate=capacities[-1] * CAPACITY_SHARE, seconds=given.seconds))
        capacity = statistics.median(capacities)
        # a queue of half a second, so that what is answered is what the server can do, not what fills its queue
        limits = ["--set", f"limits.waiting_tokens={WAITING[bundle]}"] if bundle in WAITING else []
        with Server(bundle, "--threads", 1, *limits) as server:
            stormy = load(server, requests, rate=capacity * OVERLOAD, seconds=given.seconds)
        with Refuser() as refuser:
            bare_refusals = load(refuser, requests, rate=capacity * OVERLOAD, seconds=given.seconds)
        refusal_us = cost_us(bare_refusals) * given.seconds / (given.seconds + WARM_S)
        refused_per_s = stormy["by_status"].get("429", 0) / given.seconds
        found[f"{size} a request"] = {
            "capacity_per_s": capacities,
            "calm": [calm_figures(one, given.seconds) for one in calm],
            "goodput": stormy["by_status"].get("200", 0) / given.seconds / capacity,
            "refused": stormy["by_status"].get("429", 0),
            "bare_refusal_us": refusal_us,
            "goodput_bound": 1 - refused_per_s * refusal_us / 1e6,
            "refused_ms": stormy["latency_ms"].get("429"),
            "answered_ms": stormy["latency_ms"].get("200"),
            "not_sent": stormy["lost"],
            "sent": sum(stormy["by_status"].values()) / given.seconds / capacity,
            "sent_late_p99_ms": stormy["sent_late_p99_ms"],
            "memory_growth_mb": (stormy["memory_after"] - stormy["memory_before"]) / 1e6,
        }
    return found


def calm_figures(done: dict[str, Any], seconds: float) -> dict[str, float]:
    """Percentiles of a calm round, and how busy the machine was with other work meanwhile."""
    times = done["latency_ms"]["200"]
    return {
        "p50": times["p50"],
        "p99": times["p99"],
        "p99 of p50": times["p99"] / times["p50"],
        "waited": done["server_waited_ms"] / seconds,
        "stolen": done["stolen_ms"] / seconds,
        "sent_late_p99_ms": done["sent_late_p99_ms"],
        "lost": done["lost"],
    }


def measure_start(bundle: str, work: Path, texts: Sequence[str], given: argparse.Namespace) -> dict[str, float]:
    """Seconds from the start of the process to readiness, and memory then and after load, with one thread and two."""
    ready, found = [], dict[str, float]()
    single, lists = write_requests(work, bundle, texts, 1), write_requests(work, bundle, texts, 32)
    for _ in range(given.rounds):
        with Server(bundle, "--threads", 1) as server:
            ready.append(server.ready_s)
            found["start_mb"] = server.memory_bytes() / 1e6
    for threads in (1, 2):
        with Server(bundle, "--threads", threads, on_one_cpu=threads == 1) as server:
            for requests in (single, lists):
                load(server, requests, clients=32, seconds=given.seconds)
            found[f"load_{threads}_mb"] = server.memory_bytes() / 1e6
            found[f"load_{threads}_peak_mb"] = server.peak_memory_bytes() / 1e6
    return {"ready_s": statistics.median(ready), **found}


def table_of(figures: dict[str, Figures], note: str) -> Table:
    rows = [
        ("bare encoder, one text a call: CPU µs a text", "bare_alone_us", "{:.0f}"),
        ("bare encoder, one text a call after .1 ms of sleep: CPU µs a text", "bare_paused_us", "{:.0f}"),
        ("one client: CPU µs a request", "alone_us", "{:.0f}"),
        ("bare encoder, 32 texts a call: CPU µs a text", "bare_listed_us", "{:.0f}"),
        ("32 clients: CPU µs a request", "crowded_us", "{:.0f}"),
        ("32 clients: requests a CPU second", "", ""),
        ("32 clients: texts a CPU second, of the bare encoder's one by one", "", ""),
        ("4 clients, 32 texts a request: texts a CPU second, of the bare encoder's", "", ""),
    ]
    cells: list[list[str]] = []
    for label, name, form in rows[:5]:
        cells.append([label, *(form.format(some.medians()[name]) for some in figures.values())])
    for label, value in zip(
        (row[0] for row in rows[5:]),
        (
            lambda m: f"{1e6 / m['crowded_us']:,.0f}",
            lambda m: f"{m['bare_alone_us'] / m['crowded_us']:.0%}",
            lambda m: f"{m['bare_listed_us'] / m['listed_us']:.0%}",
        ),
        strict=True,
    ):
        cells.append([label, *(value(some.medians()) for some in figures.values())])
    sizes = ("1 a request", "16 a request")
    for label, key, form in CALM:
        for size in sizes:
            calm = [[one[key] for one in some.record["load"][size]["calm"]] for some in figures.values()]
            cells.append([f"{label}: {size}", *(form.format(statistics.median(some)) for some in calm)])
    for key in ("sent under overload, of the capacity", "goodput", "goodput beside bare refusals", "429 p99, ms"):
        for size in sizes:
            cells.append([f"{key}: {size}", *(_stormy(key, some.record["load"][size]) for some in figures.values())])
    for label, key, form in STARTS:
        cells.append([label, *(form.format(some.record["start"][key]) for some in figures.values())])
    return Table(columns=["", *figures], rows=cells, note=note)


def _stormy(key: str, found: dict[str, Any]) -> str:
    if key.startswith("goodput"):
        return f"{found['goodput' if key == 'goodput' else 'goodput_bound']:.0%}"
    if key.startswith("sent"):
        return f"{found['sent']:.1f}×"
    return f"{found['refused_ms']['p99']:.1f}" if found["refused_ms"] else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", default=",".join(BUNDLES))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=0, help="only so many SIGTERMs and index swaps")
    parser.add_argument("--record", action="store_true", help="leave a record in results/")
    given = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="kdserve-serve-") as folder:
        work = Path(folder)
        if given.trials:
            found = {"sigterm": sigterm_trials(given.trials), "swap": swap_trials(given.trials, work)}
            sys.stdout.write(json.dumps(found, sort_keys=True) + "\n")
            if given.record:
                columns = ("", "trials", "replies", "lost", "wrong")
                rows = [(name, *(f"{one[key]:,}" for key in columns[1:])) for name, one in found.items()]
                note = f"kdserve-static; {machine.cpu}; {machine.date}"
                write_record(
                    "serve-trials",
                    {"found": found},
                    table=Table(columns=columns, rows=rows, note=note),
                    machine=machine,
                )
            sys.exit(any(one["lost"] or one["wrong"] for one in found.values()))
        texts = [text for some in zip(*parallel().values(), strict=True) for text in some]
        random.Random(0).shuffle(texts)
        figures: dict[str, Figures] = {}
        for bundle in given.bundles.split(","):
            figures[bundle] = measure_costs(bundle, work, texts, given)
            figures[bundle].record["load"] = measure_load(bundle, work, texts, given)
            figures[bundle].record["start"] = measure_start(bundle, work, texts, given)
    cpus, versions, where = machine.num_cpus, machine.versions, "different CPUs" if PINNED else "one"
    note = (
        f"{machine.cpu}, {cpus} CPUs; one encoder thread; server and load generator on {where}; "
        f"{given.rounds} interleaved rounds of {given.seconds:g} s; load average before "
        f"{machine.load_average:.2f}; Python {machine.python}, numpy {versions['numpy']}, onnxruntime "
        f"{versions['onnxruntime']}; commit {machine.commit}; {machine.date}"
    )
    table = table_of(figures, note)
    data = {name: vars(some) for name, some in figures.items()}
    sys.stdout.write(table.markdown() + json.dumps(data, sort_keys=True) + "\n")
    if given.record:
        write_record("serve", {"bundles": data}, table=table, machine=machine)


if __name__ == "__main__":
    main()
