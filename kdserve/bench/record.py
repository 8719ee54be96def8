"""Record of a benchmark, JSON-ready, with its conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdserve.bench.cost import Cost
from kdserve.bench.machine import Machine
from kdserve.bench.peak import Peak


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Percentiles over single calls with one text."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    num_calls: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Sum up call times."""
        p50, p95, p99 = (float(value) for value in np.percentile(np.asarray(seconds) * 1000, [50, 95, 99]))
        return cls(p50_ms=p50, p95_ms=p95, p99_ms=p99, num_calls=len(seconds))


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """A fresh process: `cold_start_s` from its start to the first vector, and its resident memory.

    `steady_bytes` and `peak_bytes` are after and during one pass over the documents; `steady_bytes` is None where the
    system does not tell (it does on Linux).
    """

    cold_start_s: float
    peak_bytes: int
    steady_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """How many times better than the baseline: ratio of medians, and the lowest and highest over paired rounds."""

    value: float
    low: float
    high: float

    @classmethod
    def of_rates(cls, rates: Sequence[float], baseline: Sequence[float]) -> Ratio:
        """Compare rates measured in the same rounds."""
        rounds = np.asarray(rates) / np.asarray(baseline)
        value = float(np.median(rates) / np.median(baseline))
        return cls(value=value, low=float(rounds.min()), high=float(rounds.max()))

    @classmethod
    def of_times(cls, times: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> Ratio:
        """Compare times: the calls of each round, for both."""
        rounds = np.median(baseline, axis=1) / np.median(times, axis=1)
        value = float(np.median(baseline) / np.median(times))
        return cls(value=value, low=float(rounds.min()), high=float(rounds.max()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One contender's figures.

    `query` is over the queries, `paragraph` over the longest documents, one by one.
    `texts_per_s` maps the number of texts in a call to the median rate over the documents. `texts_per_cpu_s`
    divides by CPU time instead, which a busy machine disturbs less (None on a GPU); `cores_used` is CPU time over
    wall time. `peak_share` is the part of the machine's measured peak reached at the best rate
    (matrix products, of the contender's precision), `bandwidth_share` the part of its memory bandwidth that reading
    the weights once a call takes at batch 1. `speedup` and `latency_gain` compare with the first contender.
    """

    name: str
    device: str
    dim: int
    fingerprint: str
    size_bytes: int | None
    query: Latency
    paragraph: Latency
    texts_per_s: Mapping[int, float]
    tokens_per_document: float | None
    tokenise_texts_per_s: float | None
    texts_per_cpu_s: float | None
    cores_used: float
    joules_per_1000_texts: float | None
    memory: Memory | None
    cost: Cost | None
    peak_share: float | None
    bandwidth_share: float | None
    quality: Mapping[str, float]
    quality_by_language: Mapping[str, float]
    latency_gain: Ratio
    speedup: Mapping[int, Ratio]

    @property
    def best_texts_per_s(self) -> float:
        """The highest rate over all batch sizes."""
        return max(self.texts_per_s.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRecord:
    """A whole run; the first row is the baseline of every ratio."""

    machine: Machine
    num_threads: int
    rounds: int
    workload: str
    peak: Peak | None
    rows: Sequence[Row]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; maps by batch size have its digits as keys."""
        record: dict[str, Any] = _plain(asdict(self))
        return record


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
