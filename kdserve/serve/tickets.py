"""Who waits for what: a model, and the texts of one request on their way through it.

N texts, W width of a row
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kdserve.runtime.batches import canonical_length
from kdserve.serve.workers import attempt

Ids = Sequence[Sequence[int]]
Rows = npt.NDArray[np.float32]
OnWait = Callable[[asyncio.Future[Any]], None]
"""Told the future that a request waits for, so that it can be ended early."""
JOB_TOKENS, LEAST_JOB_TOKENS = 512, 128
INLINE_S = 0.001
"""What may run on the event loop: everybody else waits so long."""


@dataclass(eq=False, kw_only=True, slots=True)
class Engine:
    """A model as the batcher sees it: token ids in, rows out, and those who wait for it.

    `inline_tokens` and `tokens_per_s` are measured at the start.
    """

    name: str
    width: int
    run: Callable[[Ids], Rows]
    inline_tokens: int = 0
    tokens_per_s: float = 1.0
    waiting: dict[Ticket, None] = field(default_factory=dict)
    waiting_tokens: int = 0

    @property
    def is_quick(self) -> bool:
        """Whether a batch worth a thread takes less than may run on the event loop."""
        return self.inline_tokens >= LEAST_JOB_TOKENS

    def measure(self, ids: Ids) -> None:
        """Run a few texts to learn how fast they go."""
        num_tokens = sum(map(len, ids))
        seconds = min(attempt(lambda: self.run(ids)).seconds for _ in range(4)) or INLINE_S
        self.tokens_per_s = num_tokens / seconds
        self.inline_tokens = min(JOB_TOKENS, int(self.tokens_per_s * INLINE_S))


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The rows (N, W) of a request's texts, the tokens read of each, and which were cut."""

    rows: Rows
    num_tokens: list[int]
    is_cut: list[bool]


class Ticket:
    """A request's texts on their way: which are taken already, and the rows that came back."""

    __slots__ = (
        "engine", "future", "ids", "num_missing", "num_taken", "on_wait", "order", "rows", "sizes", "waiting_tokens",
    )  # fmt: skip

    def __init__(self, engine: Engine, ids: Ids, future: asyncio.Future[None], on_wait: OnWait) -> None:
        self.engine, self.ids, self.future, self.on_wait = engine, ids, future, on_wait
        self.rows = np.empty((len(ids), engine.width), np.float32)
        self.num_taken, self.num_missing = 0, len(ids)
        self.sizes = [max(1, len(text)) for text in ids]  # a text of no token takes a place too
        self.waiting_tokens = sum(self.sizes)
        # texts of one length run together, and come first when they are short
        self.order = sorted(range(len(ids)), key=lambda n: canonical_length(len(ids[n]))) if len(ids) > 1 else [0]

    def take(self, room: int) -> list[int]:
        """The next texts that have no more than `room` tokens together, but at least one."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Some texts of one ticket, in a batch."""

    ticket: Ticket
    places: list[int]


def run_parts(parts: Sequence[Part]) -> Rows:
    """Run a batch: the rows of its texts, in order."""
    return parts[0].ticket.engine.run([part.ticket.ids[place] for part in parts for place in part.places])
