"""Cold start and memory, each in a fresh process: nothing is warm and nobody else's memory is counted."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from kdserve.bench.contender import Contender
from kdserve.bench.record import Memory
from kdserve.bench.threads import thread_environment
from kdserve.bench.workload import Workload
from kdserve.errors import EncodeError

# VmHWM and not ru_maxrss, which a child inherits from its parent on Linux.
_CHILD = """
import json, sys
texts = json.loads(sys.stdin.readline())
{code}
embedder.encode_query(texts["queries"][:1])
print("ready", flush=True)
for start in range(0, len(texts["documents"]), 32):
    embedder.encode_document(texts["documents"][start : start + 32])
try:
    lines = [line.split() for line in open("/proc/self/status")]
    found = {{line[0]: int(line[1]) * 1024 for line in lines if line[0] in ("VmHWM:", "VmRSS:")}}
    print(json.dumps({{"peak": found["VmHWM:"], "steady": found["VmRSS:"]}}))
except FileNotFoundError:
    import resource
    print(json.dumps({{"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "steady": None}}))
"""


def measure_fresh(contender: Contender, workload: Workload, *, num_threads: int, repeats: int = 3) -> Memory:
    """Start a process `repeats` times and take medians.

    Raises:
        EncodeError: the process failed; its last line of error is in the message.
    """
    runs = [_run(contender, workload, num_threads) for _ in range(repeats)]
    steady = [run.steady_bytes for run in runs if run.steady_bytes is not None]
    return Memory(
        cold_start_s=median(run.cold_start_s for run in runs),
        peak_bytes=int(median(run.peak_bytes for run in runs)),
        steady_bytes=int(median(steady)) if steady else None,
    )


def _run(contender: Contender, workload: Workload, num_threads: int) -> Memory:
    texts = {"queries": list(workload.queries[:1]), "documents": list(workload.documents)}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", _CHILD.format(code=contender.fresh_code)],
            env=os.environ | thread_environment(num_threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # a child that died at once: its error is told below
                child.stdin.write(json.dumps(texts) + "\n")
                child.stdin.flush()
            is_ready = child.stdout.readline().strip() == "ready"
            cold_start_s = time.perf_counter() - start
            output = child.stdout.read()
        if child.returncode or not is_ready:
            errors.seek(0)
            reason = errors.read().strip().splitlines()[-1:] or ["no message"]
            raise EncodeError(f"{contender.name} failed in a fresh process: {reason[0]}")
    found = json.loads(output)
    return Memory(cold_start_s=cold_start_s, peak_bytes=found["peak"], steady_bytes=found["steady"])
