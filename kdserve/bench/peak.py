"""Peak of this machine: matrix products in fp32 and int8, and memory bandwidth, measured.

Each runs as `num_threads` threads with single-threaded kernels, in a fresh process so that BLAS obeys; the int8
product is onnxruntime's, from a graph of one node written here byte by byte.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from kdserve.bench.threads import thread_environment
from kdserve.errors import EncodeError
from kdserve.runtime.protobuf import bytes_field, number_field
from kdserve.runtime.saturation import EXACT_MARK

SIZE = 1024
COPY_BYTES = 128 << 20
SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """Measured limits: billions of multiplications and additions a second, and GB read and written a second."""

    fp32_gflops: float
    int8_gops: float | None
    bandwidth_gb_per_s: float


def measure_peak(num_threads: int) -> Peak:
    """Measure in a fresh process.

    Raises:
        EncodeError: that process failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", f"from kdserve.bench.peak import main; main({num_threads})"],
        env=os.environ | thread_environment(1),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        why = said[-1] if said else f"its process ended with {_ending(done.returncode)} and said nothing"
        needed_gb = num_threads * 2 * COPY_BYTES / 1e9
        raise EncodeError(
            f"measuring the machine's peak on {num_threads} threads, which takes {needed_gb:.1f} GB of memory, failed: "
            f"{why}; give fewer threads"
        )
    return Peak(**json.loads(done.stdout))


def _ending(returncode: int) -> str:
    return f"exit code {returncode}" if returncode > 0 else signal.Signals(-returncode).name


def product_graph(size: int) -> bytes:
    """An ONNX model of one node: MatMulInteger of A (uint8) and a constant B (int8), both (size, size).

    B is small enough for sums within 16 bits, and marked as that: what is measured is what bundles of ours compute.
    """
    uint8, int8, int32 = 2, 3, 6
    weights = np.random.default_rng(0).integers(-64, 65, (size, size), np.int8)
    node = _text(1, "A") + _text(1, "B") + _text(2, "Y") + _text(4, "MatMulInteger")
    constant = number_field(1, size) * 2 + number_field(2, int8) + _text(8, "B") + bytes_field(9, weights.tobytes())
    graph = bytes_field(1, node) + _text(2, "peak") + bytes_field(5, constant)
    graph += bytes_field(11, _tensor("A", uint8, size)) + bytes_field(12, _tensor("Y", int32, size))
    return (
        number_field(1, 8)
        + bytes_field(7, graph)
        + bytes_field(8, number_field(2, 17))
        + bytes_field(14, _text(1, EXACT_MARK))
    )


def _tensor(name: str, element: int, size: int) -> bytes:
    """A ValueInfoProto of shape (size, size)."""
    dimension = bytes_field(1, number_field(1, size))
    return _text(1, name) + bytes_field(2, bytes_field(1, number_field(1, element) + bytes_field(2, dimension * 2)))


def _text(tag: int, text: str) -> bytes:
    return bytes_field(tag, text.encode())


def main(num_threads: int) -> None:
    """Measure here and print JSON: what the fresh process runs."""
    random = np.random.default_rng(0)
    first = random.standard_normal((SIZE, SIZE), np.float32)
    source = [np.ones(COPY_BYTES // 8) for _ in range(num_threads)]
    target = [np.zeros(COPY_BYTES // 8) for _ in range(num_threads)]
    operations = 2 * SIZE**3
    peak = Peak(
        fp32_gflops=_rate(lambda _: first @ first, num_threads) * operations / 1e9,
        int8_gops=_int8_rate(num_threads, operations),
        bandwidth_gb_per_s=_rate(lambda i: np.copyto(target[i], source[i]), num_threads) * 2 * COPY_BYTES / 1e9,
    )
    print(json.dumps(asdict(peak)))


def _int8_rate(num_threads: int, operations: int) -> float | None:
    """None where onnxruntime is not installed: then no bundle is timed either."""
    from kdserve.errors import MissingExtraError
    from kdserve.runtime.session import open_graph

    try:
        graph = open_graph(product_graph(SIZE))
    except MissingExtraError:
        return None
    numbers = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE), np.uint8)
    return _rate(lambda _: graph.run(None, {"A": numbers}), num_threads) * operations / 1e9


def _rate(work: Callable[[int], object], num_threads: int) -> float:
    """How often a second `num_threads` threads together do `work`: the best of three spells."""

    def spell(thread: int) -> float:
        calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < SECONDS:
            work(thread)
            calls += 1
        return calls / elapsed

    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(work, range(num_threads)))
        return max(sum(pool.map(spell, range(num_threads))) for _ in range(3))
