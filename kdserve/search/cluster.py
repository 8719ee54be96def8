"""Workers of a Ray cluster: they read, embed and write shards of documents by themselves.

Ray starts on this machine where no cluster is named (`RAY_ADDRESS`, or `ray.init` before).
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from typing import Any, NoReturn

from kdserve.datatypes import Embedder
from kdserve.errors import DataError, EncodeError, FolderError, MissingExtraError
from kdserve.search.documents.shards import Result, ShardTask

MOST_LOSSES = 3
"""So often is a shard begun again after its worker was lost."""
_logger = logging.getLogger("kdserve")


@dataclass(frozen=True, kw_only=True, slots=True)
class RayWorkers:
    """So many Ray workers, each of which opens its encoder with `load` and claims some CPUs and GPUs.

    Those begin that find room; the others wait for it, as in a cluster that grows. A worker that is lost is replaced,
    and what it had is begun again.

    Raises:
        MissingExtraError: Ray is not installed.
        DataError: fewer than one worker.
    """

    load: Callable[[], Embedder]
    number: int
    num_cpus: float = 1
    num_gpus: float = 0

    def __post_init__(self) -> None:
        if self.number < 1:
            raise DataError(f"there cannot be {self.number} workers; take 1 or more")
        try:
            import ray  # noqa: F401
        except ImportError as missing:
            raise MissingExtraError("ray", "cluster") from missing

    def each(
        self, tasks: Sequence[ShardTask[Result]], fingerprint: str, done: Callable[[Result], None]
    ) -> list[Result]:
        """As `Workers.each`."""
        _start_ray()
        if (num_fitting := self._num_fitting()) < self.number:
            _logger.warning("there is room for %d of %d Ray workers now; others wait for it", num_fitting, self.number)
        crew = _Crew(self, fingerprint)
        try:
            return crew.run(tasks, done)
        finally:
            crew.dismiss()

    def once(self, call: Callable[[], Result]) -> Result:
        """As `Workers.once`."""
        import ray

        _start_ray()
        running = ray.remote(num_cpus=0, max_retries=MOST_LOSSES)(_call).remote(call)
        try:
            result: Result = ray.get(running)
        except ray.exceptions.RayTaskError as error:
            _raise_cause(error)
        except ray.exceptions.RayError as error:
            raise EncodeError(f"the worker that wrote the index was lost ({_first_line(error)}); try again") from error
        except KeyboardInterrupt:
            ray.cancel(running, force=True)
            raise
        return result

    def _num_fitting(self) -> int:
        import ray

        there = ray.cluster_resources()
        claimed = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        return min((int(there.get(name, 0) / share) for name, share in claimed.items() if share), default=self.number)


class _Crew:
    """The workers of one run: who is busy with what, who is idle, and what was lost."""

    def __init__(self, workers: RayWorkers, fingerprint: str) -> None:
        import ray

        self._ray = ray
        actor = ray.remote(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus)(_Worker)
        self._hire: Callable[[], Any] = lambda: actor.remote(workers.load, fingerprint)
        self._number = workers.number
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        self._idle: list[Any] = []
        self._losses: Counter[int | None] = Counter()

    def run(self, tasks: Sequence[ShardTask[Result]], done: Callable[[Result], None]) -> list[Result]:
        results: dict[int, Result] = {}
        waiting, first_failed, failure = list(range(len(tasks))), len(tasks), None
        for _ in range(min(self._number, len(tasks))):
            self._begin()
        while waiting or any(number is not None and number < first_failed for _, number in self._busy.values()):
            while waiting and self._idle:
                worker, number = self._idle.pop(), heappop(waiting)
                self._busy[worker.run.remote(tasks[number])] = worker, number
            (ended,), _ = self._ray.wait(list(self._busy))
            worker, did = self._busy.pop(ended)
            try:
                result = self._ray.get(ended)
            except self._ray.exceptions.RayTaskError as error:
                if did is None:
                    _raise_cause(error)
                self._idle.append(worker)
                if did < first_failed:
                    first_failed, failure = did, error
                    waiting = [other for other in waiting if other < did]
            except self._ray.exceptions.RayError as error:
                self._count_loss(did, tasks, error)
                if did is not None and did < first_failed:
                    heappush(waiting, did)
                self._begin()
            else:
                self._idle.append(worker)
                if did is not None:
                    results[did] = result
                    done(result)
        if failure is not None:
            _raise_cause(failure)
        return [results[number] for number in range(len(tasks))]

    def dismiss(self) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            self._ray.kill(worker)

    def _begin(self) -> None:
        worker = self._hire()
        self._busy[worker.open.remote()] = worker, None

    def _count_loss(self, number: int | None, tasks: Sequence[ShardTask[Any]], error: Exception) -> None:
        self._losses[number] += 1
        what = "while they opened their encoder" if number is None else f"with {tasks[number].shard}"
        if self._losses[number] > MOST_LOSSES:
            raise EncodeError(
                f"{self._losses[number]} Ray workers were lost {what}; perhaps it wants more memory than there is "
                f"({_first_line(error)})"
            ) from error
        _logger.warning("a Ray worker was lost %s, which another one does again", what)


class _Worker:
    """Holds an encoder, in a process of its own."""

    def __init__(self, load: Callable[[], Embedder], fingerprint: str) -> None:
        self._load, self._fingerprint = load, fingerprint

    @cached_property
    def _encoder(self) -> Embedder:
        encoder = self._load()
        if encoder.fingerprint != self._fingerprint:
            raise FolderError(
                f"{socket.gethostname()} has the encoder {encoder.fingerprint[:12]}, not {self._fingerprint[:12]}; "
                f"put the same bundle there"
            )
        return encoder

    def open(self) -> None:
        """Be ready, or raise why not."""
        _ = self._encoder

    def run(self, task: ShardTask[Result]) -> Result:
        return task.run(task.shard, self._encoder)


def _call(call: Callable[[], Result]) -> Result:
    return call()


def _start_ray() -> None:
    import ray

    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise DataError(f"Ray cannot be reached ({_first_line(error)}); check RAY_ADDRESS") from error


def _raise_cause(error: Any) -> NoReturn:
    """Raise what a task raised, with the traceback of there as its cause."""
    raise (error.cause or error) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
