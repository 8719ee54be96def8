"""Threads that compute beside the event loop. One that does not come back is written off and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Any

NICENESS = 5
"""How much these threads give way to the event loop, whose work is short and waited for."""
MOST_LOST = 8
"""With so many threads lost at once the process counts as ill."""


class StuckError(Exception):
    """A job took longer than any should; its thread was written off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of a job: its result or its error, and how long it took."""

    result: Any = None
    error: Exception | None = None
    seconds: float = 0.0


@dataclass(eq=False, kw_only=True, slots=True)
class _Job:
    work: Callable[[], Any]
    done: Callable[[Outcome], None]
    timer: asyncio.TimerHandle | None = None
    given_up: bool = False


@dataclass(eq=False, slots=True)
class _Worker:
    inbox: SimpleQueue[_Job | None] = field(default_factory=SimpleQueue)


class Workers:
    """`num_threads` threads with at most one job each. Everything but the jobs happens on the event loop.

    After `patience_s` a job is given up: `done` gets a StuckError. Python cannot end its thread, which is a daemon's,
    so another takes its place.
    """

    def __init__(self, num_threads: int, *, patience_s: float) -> None:
        self.num_threads, self.num_lost = num_threads, 0
        self._num_hired = 0
        self._patience_s = patience_s
        self._idle: list[_Worker] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def num_idle(self) -> int:
        """Count the jobs that could start now."""
        return len(self._idle)

    @property
    def num_busy(self) -> int:
        """Count the threads that have a job, those that are lost among them."""
        return self._num_hired - len(self._idle)

    @property
    def is_well(self) -> bool:
        """Say whether fewer threads are lost than call for a new process."""
        return self.num_lost < MOST_LOST

    def open(self) -> None:
        """Start the threads, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._idle = [self._hire() for _ in range(self.num_threads)]

    def close(self) -> None:
        """Let idle threads end; those with a job are daemons and end with the process."""
        for worker in self._idle:
            worker.inbox.put(None)
        self._num_hired -= len(self._idle)
        self._idle = []

    def start(self, work: Callable[[], Any], done: Callable[[Outcome], None]) -> None:
        """Give a job to an idle thread, which there must be; `done` is called on the event loop."""
        assert self._loop is not None
        job = _Job(work=work, done=done)
        worker = self._idle.pop()
        job.timer = self._loop.call_later(self._patience_s, self._give_up, job)
        worker.inbox.put(job)

    async def run(self, work: Callable[[], Any]) -> Any:
        """Do one job on an idle thread, which there must be, and return its result or raise its error."""
        assert self._loop is not None
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self.start(work, lambda outcome: None if future.done() else future.set_result(outcome))
        outcome = await future
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def _hire(self) -> _Worker:
        worker = _Worker()
        self._num_hired += 1
        Thread(target=self._work, args=(worker,), name="kdserve-worker", daemon=True).start()
        return worker

    def _work(self, worker: _Worker) -> None:
        if sys.platform == "linux":  # elsewhere it would be the whole process that gives way
            os.nice(NICENESS)
        while (job := worker.inbox.get()) is not None:
            outcome = attempt(job.work)
            assert self._loop is not None
            with contextlib.suppress(RuntimeError):  # the loop closed meanwhile: nobody waits for this any more
                self._loop.call_soon_threadsafe(self._finish, worker, job, outcome)

    def _finish(self, worker: _Worker, job: _Job, outcome: Outcome) -> None:
        if job.given_up:
            self.num_lost -= 1
            self._num_hired -= 1
            worker.inbox.put(None)
            return
        assert job.timer is not None
        job.timer.cancel()
        self._idle.append(worker)
        job.done(outcome)

    def _give_up(self, job: _Job) -> None:
        job.given_up = True
        self.num_lost += 1
        self._idle.append(self._hire())
        job.done(Outcome(error=StuckError(f"no result after {self._patience_s:g} s"), seconds=self._patience_s))


def attempt(work: Callable[[], Any]) -> Outcome:
    """Do a piece of work; whatever goes wrong belongs to those who asked for it, not to this thread."""
    began = time.perf_counter()
    try:
        return Outcome(result=work(), seconds=time.perf_counter() - began)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        traceback.clear_frames(error.__traceback__)  # or what was half done would wait for the garbage collector
        seconds = time.perf_counter() - began
        if isinstance(error, Exception):
            return Outcome(error=error, seconds=seconds)
        failed = RuntimeError(f"{type(error).__name__}: {error}")
        failed.__cause__ = error
        return Outcome(error=failed, seconds=seconds)
