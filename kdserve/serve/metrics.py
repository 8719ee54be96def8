"""Figures for Prometheus. Several processes write to files of one folder, and any of them answers for all."""

from __future__ import annotations

import os

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counters of one application."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "kdserve_requests", "Replies by path and status.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "kdserve_request_seconds",
            "From a request's head to its reply, read or not.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "kdserve_tokens", "Tokens run, by model; characters of one that writes.", ["model"], registry=registry
        )
        self._batch_texts = Histogram(
            "kdserve_batch_texts", "Texts in a batch, by model.", ["model"], buckets=_TEXTS, registry=registry
        )
        self._cut = Counter("kdserve_texts_cut", "Texts cut at the model's limit.", ["model"], registry=registry)
        self._waiting = Gauge(
            "kdserve_waiting_tokens", "Tokens that wait, by model; characters of one that writes.", ["model"],
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._lost = Gauge(
            "kdserve_lost_threads", "Threads that did not come back.", registry=registry, multiprocess_mode="livesum"
        )
        self._generation = Gauge(
            "kdserve_index_generation", "The generation that is searched; the least of all processes.", ["index"],
            registry=registry, multiprocess_mode="livemin",
        )  # fmt: skip
        # looking a label up costs more than counting
        self._by_model: dict[str, tuple[Counter, Histogram, Gauge]] = {}
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def replied(self, path: str, status: int, seconds: float) -> None:
        """Count a reply; `status` 499 stands for a client that hung up."""
        counters = self._known.get((path, status))
        if counters is None:
            counters = self._requests.labels(path, str(status)), self._seconds.labels(path)
            self._known[path, status] = counters
        counters[0].inc()
        counters[1].observe(seconds)

    def ran(self, model: str, *, num_texts: int, num_tokens: int, waiting_tokens: int) -> None:
        """Count a batch that was taken, and what still waits behind it."""
        if model not in self._by_model:
            self._by_model[model] = (
                self._tokens.labels(model), self._batch_texts.labels(model), self._waiting.labels(model),
            )  # fmt: skip
        tokens, texts, waiting = self._by_model[model]
        tokens.inc(num_tokens)
        texts.observe(num_texts)
        waiting.set(waiting_tokens)

    def cut(self, model: str, num_texts: int) -> None:
        """Count texts that were cut."""
        self._cut.labels(model).inc(num_texts)

    def has_generation(self, index: str, generation: int) -> None:
        """Note what an index stands at."""
        self._generation.labels(index).set(generation)

    def write(self, *, num_lost: int) -> bytes:
        """Write all figures in Prometheus' text form."""
        self._lost.set(num_lost)
        if not os.environ.get(FOLDER):
            return generate_latest(self.registry)
        whole = CollectorRegistry()
        MultiProcessCollector(whole)  # type: ignore[no-untyped-call]
        return generate_latest(whole)
