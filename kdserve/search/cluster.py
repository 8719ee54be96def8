"""Workers of a Ray cluster: they read, embed and write shards of documents by themselves.

Ray starts on this machine where no cluster is named (`RAY_ADDRESS`, or `ray.init` before).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
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
GONE_S = 10.0
"""So long is waited for workers to be gone that were killed."""
SLOW_START = ("RAY_raylet_start_wait_time_s", "120")
"""How long Ray waits for its own processes, in seconds: with the 30 of its own a busy machine fails to start it."""
_HERE = "kdserve started it here"
"""A resource of a Ray that was, and so does not grow."""
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
        """As `Workers.each`; raises DataError where Ray was started here and has no room for any worker."""
        start_ray()
        self._tell_room()
        crew = _Crew(self, fingerprint)
        try:
            return crew.run(tasks, done)
        finally:
            crew.dismiss()

    def once(self, call: Callable[[], Result]) -> Result:
        """As `Workers.once`."""
        import ray

        start_ray()
        running = ray.remote(num_cpus=0, max_retries=MOST_LOSSES)(_call).remote(call)
        try:
            result: Result = ray.get(running)
        except ray.exceptions.RayTaskError as error:
            _raise_cause(error)
        except ray.exceptions.RayError as error:
            raise EncodeError(f"the worker that wrote the index was lost ({_first_line(error)}); try again") from error
        except KeyboardInterrupt:
            ray.cancel(running, force=True)
            ray.wait([running], timeout=GONE_S)  # what it writes is removed then
            raise
        return result

    def _tell_room(self) -> None:
        """Warn where not all workers have room; raise where none ever will."""
        import ray

        claimed = {name: share for name, share in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if share}
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        num_fitting = sum(
            min((int(one.get(name, 0) / share) for name, share in claimed.items()), default=self.number)
            for one in machines
        )
        if num_fitting >= self.number:
            return
        claims = " and ".join(f"{share:g} {name}" for name, share in claimed.items())
        there = ", ".join(" and ".join(f"{one.get(name, 0):g} {name}" for name in claimed) for one in machines)
        room = f"a worker claims {claims}, and Ray has {there}"
        if not num_fitting and any(_HERE in one for one in machines):
            raise DataError(f"{room}; let workers claim less, or name a cluster by RAY_ADDRESS")
        _logger.warning(
            "there is room for %d of %d Ray workers now (%s); others wait for it", num_fitting, self.number, room
        )


class _Crew:
    """The workers of one run: who is busy with what, who is idle, where they are, and what was lost."""

    def __init__(self, workers: RayWorkers, fingerprint: str) -> None:
        import ray

        self._ray = ray
        actor = ray.remote(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus)(_Worker)
        self._hire: Callable[[], Any] = lambda: actor.remote(workers.load, fingerprint)
        self._number = workers.number
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        self._places: dict[Any, tuple[str, int]] = {}
        self._idle: list[Any] = []
        self._losses: Counter[int | None] = Counter()

    def run(self, tasks: Sequence[ShardTask[Result]], done: Callable[[Result], None]) -> list[Result]:
        results: dict[int, Result] = {}
        warnings: dict[int, list[str]] = {}
        num_told = 0
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
                given = self._ray.get(ended)
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
                if did is None:
                    self._places[worker] = given
                    del self._losses[None]
                    continue
                results[did], warnings[did] = given
                done(results[did])
                while num_told in warnings:  # as one machine says them
                    for warning in warnings.pop(num_told) if tasks[num_told].told else ():
                        _logger.warning("%s", warning)
                    num_told += 1
        if failure is not None:
            _raise_cause(failure)
        return [results[number] for number in range(len(tasks))]

    def dismiss(self) -> None:
        """Kill all workers, and wait until those are gone that were busy: what they write is removed then."""
        busy = [worker for worker, _ in self._busy.values()]
        for worker in [*self._idle, *busy]:
            self._ray.kill(worker)
        waiting = []
        for node, process in (self._places[worker] for worker in busy if worker in self._places):
            there = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            wait = self._ray.remote(num_cpus=0, scheduling_strategy=there)(_wait_until_gone)
            waiting.append(wait.remote(process))
        if waiting:
            self._ray.wait(waiting, num_returns=len(waiting), timeout=GONE_S)

    def _begin(self) -> None:
        worker = self._hire()
        self._busy[worker.begin.remote()] = worker, None

    def _count_loss(self, number: int | None, tasks: Sequence[ShardTask[Any]], error: Exception) -> None:
        self._losses[number] += 1
        what = "as they began" if number is None else f"with {tasks[number].shard}"
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

    def begin(self) -> tuple[str, int]:
        """Say on which node this is, and which process."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    def run(self, task: ShardTask[Result]) -> tuple[Result, list[str]]:
        """What the task gives, and what it warns of."""
        heard = _Heard()
        _logger.addHandler(heard)
        try:
            return task.run(task.shard, lambda: self._encoder), heard.warnings
        finally:
            _logger.removeHandler(heard)


class _Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())


def _wait_until_gone(process: int) -> None:
    until = time.monotonic() + GONE_S
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


def _call(call: Callable[[], Result]) -> Result:
    return call()


def start_ray() -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start one on this machine, unless that has been done.

    Raises:
        DataError: it does not answer.
    """
    import ray

    if not ray.is_initialized():
        named, on_stop = os.environ.get("RAY_ADDRESS"), signal.getsignal(signal.SIGTERM)
        os.environ.setdefault(*SLOW_START)
        try:
            ray.init(
                named or "local",
                resources=None if named else {_HERE: 1},
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # bare ones too, where a part of it does not answer in time
            what, advice = ("reached", "check RAY_ADDRESS") if named else ("started", "try again when less is running")
            raise DataError(f"Ray cannot be {what} ({_first_line(error)}); {advice}") from error
        if callable(on_stop) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_stop)  # Ray's own aborts, and nothing is tidied up


def _raise_cause(error: Any) -> NoReturn:
    """Raise what a task raised, with the traceback of there as its cause."""
    raise (error.cause or error) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
