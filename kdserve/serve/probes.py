"""Answers for operators: is it alive, is it ready, what did it do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from kdserve.serve.endpoint import TEXT, Call, Endpoint, Reply
from kdserve.serve.indexes import ServedIndex
from kdserve.serve.metrics import CONTENT_TYPE, Metrics
from kdserve.serve.models import Models
from kdserve.serve.refusals import Refusal
from kdserve.serve.workers import Workers


class Ready(msgspec.Struct):
    """Models that stand ready, and the generation of each index."""

    encoders: list[str]
    classifiers: list[str]
    indexes: dict[str, int]


class Probes:
    """The endpoints. `is_draining` says whether the server is about to stop."""

    def __init__(
        self, models: Models, indexes: Mapping[str, ServedIndex], workers: Workers, metrics: Metrics,
        is_draining: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._models, self._indexes, self._workers, self._metrics = models, indexes, workers, metrics
        self._is_draining = is_draining

    def endpoints(self) -> list[Endpoint]:
        """List the paths of this part of the API."""

        def get(path: str, summary: str, answer: object, **more: object) -> Endpoint:
            return Endpoint(method="GET", path=path, summary=summary, answer=answer, **more)  # type: ignore[arg-type]

        return [
            get("/livez", "Whether the process is well", self.live, media="text/plain", needs="", refuses=(500,)),
            get("/readyz", "Whether to send requests here", self.ready, gives=Ready, needs="", refuses=(503,)),
            get("/metrics", "Figures for Prometheus", self.measure, media="text/plain"),
        ]

    async def live(self, call: Call, request: None) -> Reply:
        """Answer GET /livez: 500 once so many threads are lost that only a restart helps."""
        if not self._workers.is_well:
            raise Refusal("failed", f"{self._workers.num_lost} threads did not come back; start the process again")
        return Reply(body=b"ok\n", content_type=TEXT)

    async def ready(self, call: Call, request: None) -> Reply:
        """Answer GET /readyz: 503 while the server is stopping, or an index cannot be read."""
        if self._is_draining():
            raise Refusal("stopping", "the server is stopping; ask another")
        if broken := [name for name, index in self._indexes.items() if index.is_broken]:
            raise Refusal("unready", f"indexes that cannot be read: {', '.join(broken)}; restore them")
        generations = {name: index.generation for name, index in self._indexes.items()}
        models = self._models
        return Reply(body=Ready(encoders=[*models.encoders], classifiers=[*models.classifiers], indexes=generations))

    async def measure(self, call: Call, request: None) -> Reply:
        """Answer GET /metrics."""
        for name, index in self._indexes.items():
            self._metrics.has_generation(name, index.generation)
        return Reply(body=self._metrics.write(num_lost=self._workers.num_lost), content_type=CONTENT_TYPE)
