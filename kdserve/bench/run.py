"""The measurement itself: contenders take turns in every round, so that a busy moment of the machine hits them all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean, median

from kdserve.bench.contender import Contender
from kdserve.bench.energy import joules_so_far
from kdserve.bench.fresh import measure_fresh
from kdserve.bench.machine import describe_machine
from kdserve.bench.peak import Peak, measure_peak
from kdserve.bench.record import BenchRecord, Latency, Memory, Ratio, Row
from kdserve.bench.workload import Workload
from kdserve.datatypes import Progress, no_progress
from kdserve.errors import EncodeError

BATCH_SIZES = (1, 8, 32, 128)
_LONG_ENOUGH_S = 0.2
_PARAGRAPHS = 16


@dataclass(slots=True)
class _Samples:
    """Timings of one contender: seconds a call, and rates a round."""

    query_s: list[list[float]] = field(default_factory=list)
    paragraph_s: list[float] = field(default_factory=list)
    texts_per_s: dict[int, list[float]] = field(default_factory=dict)
    tokenise_texts_per_s: list[float] = field(default_factory=list)
    texts_per_cpu_s: list[float] = field(default_factory=list)
    cores_used: list[float] = field(default_factory=list)
    joules_per_text: list[float] = field(default_factory=list)


def bench(
    contenders: Sequence[Contender],
    *,
    workload: Workload,
    num_threads: int,
    rounds: int = 5,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    measure_machine: bool = True,
    progress: Progress = no_progress,
) -> BenchRecord:
    """Time the contenders on the same texts and compare each with the first.

    `num_threads` is recorded and given to fresh processes; the embedders themselves arrive with it set. Peaks of the
    machine are measured before, unless `measure_machine` is false.

    Raises:
        EncodeError: no contender, two of one name, or one that fails in a fresh process.
    """
    names = [contender.name for contender in contenders]
    if not names or len(set(names)) < len(names):
        raise EncodeError(f"there is nothing to compare in {names}; give contenders of different names")
    machine = describe_machine()
    peak = measure_peak(num_threads) if measure_machine else None
    memories = []
    for done, contender in enumerate(contenders):
        progress("cold start and memory", done, len(contenders))
        memories.append(measure_fresh(contender, workload, num_threads=num_threads) if contender.fresh_code else None)
    progress("cold start and memory", len(contenders), len(contenders))
    samples = [_Samples() for _ in contenders]
    for contender in contenders:
        _warm_up(contender, workload, batch_sizes)
    for turn in range(rounds):
        for step in range(len(contenders)):
            position = (turn + step) % len(contenders)  # nobody always goes first
            _measure(contenders[position], samples[position], workload, batch_sizes)
            progress("timing", turn * len(contenders) + step + 1, rounds * len(contenders))
    rows = [
        _row(contender, own, memory, peak=peak, baseline=samples[0], workload=workload)
        for contender, own, memory in zip(contenders, samples, memories, strict=True)
    ]
    return BenchRecord(
        machine=machine, num_threads=num_threads, rounds=rounds, workload=workload.description, peak=peak, rows=rows
    )


def _warm_up(contender: Contender, workload: Workload, batch_sizes: Sequence[int]) -> None:
    for query in workload.queries[:8]:
        contender.embedder.encode_query([query])
    for size in batch_sizes:
        contender.embedder.encode_document(workload.documents[:size])


def _measure(contender: Contender, own: _Samples, workload: Workload, batch_sizes: Sequence[int]) -> None:
    """One round of one contender."""
    gc.collect()
    encode_query, encode_document = contender.embedder.encode_query, contender.embedder.encode_document
    own.query_s.append([_seconds(encode_query, query) for query in workload.queries])
    own.paragraph_s += [_seconds(encode_document, text) for text in _longest(workload.documents)]
    joules, cpu, start = joules_so_far(), time.process_time(), time.perf_counter()
    num_texts = 0
    for size in batch_sizes:
        passes, elapsed = _pass_until_long_enough(workload.documents, size, encode_document)
        own.texts_per_s.setdefault(size, []).append(passes * len(workload.documents) / elapsed)
        num_texts += passes * len(workload.documents)
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - start
    own.texts_per_cpu_s.append(num_texts / cpu_s)
    own.cores_used.append(cpu_s / wall_s)
    if joules is not None and (spent := (joules_so_far() or 0) - joules) > 0:
        own.joules_per_text.append(spent / num_texts)
    if contender.tokenize is not None:
        passes, elapsed = _pass_until_long_enough(workload.documents, len(workload.documents), contender.tokenize)
        own.tokenise_texts_per_s.append(passes * len(workload.documents) / elapsed)


def _longest(documents: Sequence[str]) -> Sequence[str]:
    return sorted(documents, key=len)[-_PARAGRAPHS:]


def _pass_until_long_enough(
    texts: Sequence[str], size: int, work: Callable[[Sequence[str]], object]
) -> tuple[int, float]:
    """Go through all texts, `size` a call, again until the clock can be trusted; return passes and seconds."""
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    passes, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _LONG_ENOUGH_S:
        for batch in batches:
            work(batch)
        passes += 1
    return passes, elapsed


def _seconds(encode: Callable[[Sequence[str]], object], text: str) -> float:
    start = time.perf_counter()
    encode([text])
    return time.perf_counter() - start


def _row(
    contender: Contender,
    own: _Samples,
    memory: Memory | None,
    *,
    peak: Peak | None,
    baseline: _Samples,
    workload: Workload,
) -> Row:
    query = Latency.of([seconds for turn in own.query_s for seconds in turn])
    texts_per_s = {size: median(rates) for size, rates in own.texts_per_s.items()}
    tokens = contender.tokenize(workload.documents) if contender.tokenize else None
    return Row(
        name=contender.name,
        device=contender.device,
        dim=contender.embedder.dim,
        fingerprint=contender.embedder.fingerprint,
        size_bytes=contender.size_bytes,
        query=query,
        paragraph=Latency.of(own.paragraph_s),
        texts_per_s=texts_per_s,
        tokens_per_document=mean(tokens) if tokens else None,
        tokenise_texts_per_s=median(own.tokenise_texts_per_s) if own.tokenise_texts_per_s else None,
        texts_per_cpu_s=median(own.texts_per_cpu_s) if contender.device == "cpu" else None,
        cores_used=median(own.cores_used),
        joules_per_1000_texts=1000 * median(own.joules_per_text) if own.joules_per_text else None,
        memory=memory,
        cost=contender.cost,
        peak_share=_peak_share(contender, peak, tokens, max(texts_per_s.values())),
        bandwidth_share=_bandwidth_share(contender, peak, query),
        quality=contender.quality,
        quality_by_language=contender.quality_by_language,
        latency_gain=Ratio.of_times(own.query_s, baseline.query_s),
        speedup={size: Ratio.of_rates(rates, baseline.texts_per_s[size]) for size, rates in own.texts_per_s.items()},
    )


def _peak_share(
    contender: Contender, peak: Peak | None, tokens: Sequence[int] | None, texts_per_s: float
) -> float | None:
    """Part of the measured matrix-product rate; None without products, and on a GPU, whose peak is not measured."""
    if peak is None or contender.cost is None or tokens is None or not _multiplies(contender):
        return None
    limit = peak.fp32_gflops if contender.cost.precision.arithmetic == "float32" else peak.int8_gops
    return mean(contender.cost.flops(count) for count in tokens) * texts_per_s / 1e9 / limit if limit else None


def _bandwidth_share(contender: Contender, peak: Peak | None, query: Latency) -> float | None:
    if peak is None or contender.cost is None or not _multiplies(contender):
        return None
    return contender.cost.body_bytes / 1e9 / (query.p50_ms / 1000) / peak.bandwidth_gb_per_s


def _multiplies(contender: Contender) -> bool:
    return contender.device == "cpu" and contender.cost is not None and contender.cost.num_layers > 0
