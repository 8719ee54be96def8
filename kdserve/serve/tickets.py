"""Who waits for what: a model, and the texts of one request on their way through it.

N texts, W width of a row. Of a model that writes, what is said of tokens is meant of characters.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kdserve.runtime.batches import canonical_length
from kdserve.serve.workers import attempt

Ids = Sequence[Sequence[int]]
Rows = npt.NDArray[Any]
OnWait = Callable[[asyncio.Future[Any]], None]
"""Told the future that a request waits for, so that it can be ended early."""
LEAST_JOB_TOKENS = 128
INLINE_S = 0.001
"""Work of so long may run on the event loop; everybody else waits for it."""


@dataclass(eq=False, kw_only=True, slots=True, weakref_slot=True)
class Engine:
    """A model as the batcher sees it: texts in, as token ids or characters, rows out, and those who wait for it.

    `run` takes up to `job_tokens` at once; `inline_tokens` and `tokens_per_s` are measured at the start.
    """

    name: str
    run: Callable[[Any], Rows]
    job_tokens: int = 512
    inline_tokens: int = 0
    tokens_per_s: float = math.inf
    waiting: dict[Ticket, None] = field(default_factory=dict)
    waiting_tokens: int = 0

    @property
    def is_quick(self) -> bool:
        """Say whether a batch worth a thread takes less than may run on the event loop."""
        return self.inline_tokens >= LEAST_JOB_TOKENS

    def measure(self, ids: Ids) -> None:
        """Run a few texts to learn how fast they go."""
        num_tokens = sum(map(len, ids))
        seconds = min(attempt(lambda: self.run(ids)).seconds for _ in range(4)) or INLINE_S
        self.tokens_per_s = num_tokens / seconds
        self.inline_tokens = min(self.job_tokens, int(self.tokens_per_s * INLINE_S))


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The rows (N, W) of a request's texts, the tokens read of each, and which were cut."""

    rows: Rows
    num_tokens: list[int]
    is_cut: list[bool]


class Ticket:
    """A request's texts on their way: which are taken already, and the rows that came back."""

    __slots__ = (
        "_rows", "engine", "future", "num_missing", "num_taken", "on_wait", "order", "sizes", "texts", "waiting_tokens",
    )  # fmt: skip

    def __init__(
        self, engine: Engine, texts: Ids | Sequence[str], future: asyncio.Future[Rows], on_wait: OnWait
    ) -> None:
        self.engine, self.texts, self.future, self.on_wait = engine, texts, future, on_wait
        self._rows: Rows | None = None
        self.num_taken, self.num_missing = 0, len(texts)
        self.sizes = [max(1, len(text)) for text in texts]  # a text of no token takes a place too
        self.waiting_tokens = sum(self.sizes)
        # texts of one length run together, and come first when they are short
        self.order = sorted(range(len(texts)), key=lambda n: canonical_length(len(texts[n]))) if len(texts) > 1 else [0]

    def take(self, room: int) -> list[int]:
        """Take the next texts that have no more than `room` tokens together, but at least one."""
        first, total = self.num_taken, 0
        while self.num_taken < len(self.order):
            size = self.sizes[self.order[self.num_taken]]
            if total and total + size > room:
                break
            total += size
            self.num_taken += 1
        self.waiting_tokens -= total
        self.engine.waiting_tokens -= total
        return self.order[first : self.num_taken]

    def put(self, places: list[int], rows: Rows) -> None:
        """Keep rows of some texts; with the last of them the request has its answer."""
        if len(places) == len(self.order) == 1:
            self._rows = rows
        else:
            if self._rows is None:
                self._rows = np.empty((len(self.order), *rows.shape[1:]), rows.dtype)
            self._rows[places] = rows
        self.num_missing -= len(places)
        if not self.num_missing:
            self.future.set_result(self._rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Some texts of one ticket, in a batch."""

    ticket: Ticket
    places: list[int]


def run_parts(parts: Sequence[Part]) -> Rows:
    """Run a batch: the rows of its texts, in order."""
    return parts[0].ticket.engine.run([part.ticket.texts[place] for part in parts for place in part.places])
