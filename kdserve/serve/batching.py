"""Batches without a timer: what waits when a thread is free runs together.

Requests wait in turns. A free thread takes some texts of the first, then of the next, so that a large request cannot
hold up a small one; what it takes is merged by canonical length, as always, so every vector is what it is alone. While
little waits, it runs at once on the event loop: a hop to a thread costs more than a short text. A quick model, such as
a static one, always runs there, in slices of a millisecond.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from kdserve.errors import EncodeError
from kdserve.runtime.tokens import TokenizedTexts
from kdserve.serve.metrics import Metrics
from kdserve.serve.refusals import Refusal
from kdserve.serve.settings import Limits
from kdserve.serve.tickets import LEAST_JOB_TOKENS, Answer, Engine, Ids, OnWait, Part, Rows, Ticket, run_parts
from kdserve.serve.workers import Outcome, StuckError, Workers, attempt

Result = TypeVar("Result")
INLINE_CHARACTERS = 2000
LEAST_RETRY_S = 0.05
MOST_READY = 512


class Batcher:
    """Runs the texts of all requests, for all models of a process.

    `is_alone` says whether the server has but one request open; where the server cannot tell, it stays False.
    """

    def __init__(self, workers: Workers, limits: Limits, metrics: Metrics) -> None:
        self._workers, self._limits, self._metrics = workers, limits, metrics
        self.is_alone: Callable[[], bool] = lambda: False
        self._engines: deque[Engine] = deque()
        self._ready: deque[tuple[Callable[[], object], Callable[[Outcome], None]]] = deque()
        self._fresh: list[Ticket] = []
        self._flush_is_due = self._was_aside = False

    async def run(
        self,
        engine: Engine,
        tokenize: Callable[[list[str]], TokenizedTexts],
        texts: list[str],
        *,
        truncate: bool,
        on_wait: OnWait,
    ) -> Answer:
        """Tokenize texts and run them. `on_wait` is only told of a future if there is a wait at all.

        Raises:
            Refusal: too much waits already, the texts are too many, too long or not valid, or their run failed.
        """
        self.require_room(engine)
        tokenized = await self._tokenize(engine, tokenize, texts, on_wait)
        self._require_size(tokenized, truncate=truncate)
        if num_cut := sum(tokenized.is_cut):
            self._metrics.cut(engine.name, num_cut)
        num_tokens = sum(lengths := tokenized.num_tokens)
        if num_tokens <= engine.inline_tokens and not engine.waiting and self.is_alone():
            self._metrics.ran(engine.name, num_texts=len(texts), num_tokens=num_tokens, waiting_tokens=0)
            return Answer(rows=engine.run(tokenized.ids), num_tokens=lengths, is_cut=tokenized.is_cut)
        rows = await self.queue(engine, tokenized.ids, on_wait)
        return Answer(rows=rows, num_tokens=lengths, is_cut=tokenized.is_cut)

    async def queue(self, engine: Engine, texts: Ids | Sequence[str], on_wait: OnWait) -> Rows:
        """Wait until a model has run texts, and return their rows. Raises what that raises, or Refusal."""
        ticket = Ticket(engine, texts, asyncio.get_running_loop().create_future(), on_wait)
        self._admit(ticket)
        try:
            return await ticket.future
        finally:
            self._forget(ticket)

    def require_room(self, engine: Engine) -> None:
        """Refuse while more waits for a model than may; cheap, so that it can be asked before anything else.

        Raises:
            Refusal: too much waits.
        """
        if self.is_full(engine):
            raise self.overloaded(engine)

    def is_full(self, engine: Engine, *, coming_tokens: int = 0) -> bool:
        """Say whether more waits for a model than may, with what is about to."""
        most = min(self._limits.waiting_tokens, self._tokens_per_s(engine) * self._limits.waiting_s)
        return engine.waiting_tokens + coming_tokens >= most

    def are_full(self, engines: Sequence[Engine]) -> bool:
        """Say whether that is so for all of some models."""
        return bool(engines) and all(map(self.is_full, engines))

    def overloaded(self, engine: Engine) -> Refusal:
        """Return the refusal of what comes while that is so."""
        wait_s = engine.waiting_tokens / self._tokens_per_s(engine)
        return Refusal(
            "overloaded",
            f"{engine.waiting_tokens} tokens wait for {engine.name}; try again a little later",
            retry_s=max(LEAST_RETRY_S, wait_s),
        )

    def _tokens_per_s(self, engine: Engine) -> float:
        """What all threads do together; a quick model runs on the event loop alone."""
        return engine.tokens_per_s * (1 if engine.is_quick else self._workers.num_threads)

    def _require_size(self, tokenized: TokenizedTexts, *, truncate: bool) -> None:
        if not truncate and any(tokenized.is_cut):
            place = tokenized.is_cut.index(True)
            raise Refusal(
                "too_large",
                f"text {place} is longer than the model's {len(tokenized.ids[place])} tokens; shorten it, or let it be "
                "cut with truncate",
            )
        if (total := sum(tokenized.num_tokens)) > self._limits.tokens:
            raise Refusal(
                "too_large", f"the texts have {total} tokens, {self._limits.tokens} are allowed; send fewer a request"
            )

    async def _tokenize(
        self,
        engine: Engine,
        tokenize: Callable[[list[str]], TokenizedTexts],
        texts: list[str],
        on_wait: OnWait,
    ) -> TokenizedTexts:
        num_characters = sum(map(len, texts))
        try:
            if num_characters <= INLINE_CHARACTERS:
                return tokenize(texts)
            engine.waiting_tokens += num_characters // 4
            try:
                return await self.aside(lambda: tokenize(texts), on_wait)
            finally:
                engine.waiting_tokens -= num_characters // 4
        except EncodeError as error:
            raise Refusal("invalid", str(error), param="input") from error

    async def aside(self, work: Callable[[], Result], on_wait: OnWait) -> Result:
        """Do some work on a thread, when one is free.

        Raises:
            Refusal: too many wait for that, or it took too long.
        """
        if len(self._ready) >= MOST_READY:
            raise Refusal("overloaded", f"{len(self._ready)} requests wait; try again a little later", retry_s=1.0)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = (work, partial(self._hand_over, future))
        self._ready.append(entry)
        self._schedule()
        on_wait(future)
        try:
            outcome = await future
        finally:
            if entry in self._ready:
                self._ready.remove(entry)
        if outcome.error is not None:
            raise _told(outcome.error)
        result: Result = outcome.result
        return result

    def _hand_over(self, future: asyncio.Future[Outcome], outcome: Outcome) -> None:
        if not future.done():
            future.set_result(outcome)
        self._flush()

    def _admit(self, ticket: Ticket) -> None:
        engine = ticket.engine
        if not engine.waiting:
            self._engines.append(engine)
        engine.waiting[ticket] = None
        engine.waiting_tokens += ticket.waiting_tokens
        self._fresh.append(ticket)
        self._schedule()

    def _forget(self, ticket: Ticket) -> None:
        """Free the place of a request that is answered, late, or whose client is gone."""
        if ticket in ticket.engine.waiting:
            del ticket.engine.waiting[ticket]
            ticket.engine.waiting_tokens -= ticket.waiting_tokens
            if not ticket.engine.waiting:
                self._engines.remove(ticket.engine)

    def _schedule(self) -> None:
        """Look at who waits once all that is arriving at this moment has arrived."""
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        for engine in list(self._engines):
            if engine.is_quick or engine.waiting_tokens <= engine.inline_tokens:
                parts = self._take(engine, engine.inline_tokens)
                self._settle(parts, attempt(partial(run_parts, parts)))
        if any(engine.is_quick for engine in self._engines):
            self._schedule()  # the next slice, after whoever else is due
        while self._workers.num_idle and self._start_one():
            pass
        fresh, self._fresh = self._fresh, []
        for ticket in fresh:
            if not ticket.future.done():
                ticket.on_wait(ticket.future)

    def _start_one(self) -> bool:
        """Give an idle thread the next batch or other work, in turns where both wait; say whether there was any."""
        slow = next((one for one in self._engines if not one.is_quick), None)
        self._was_aside = bool(self._ready) and not (slow and self._was_aside)
        if self._was_aside:
            self._workers.start(*self._ready.popleft())
        elif slow:
            self._engines.remove(slow)
            self._engines.append(slow)
            share = max(LEAST_JOB_TOKENS, slow.waiting_tokens // self._workers.num_idle)
            parts = self._take(slow, min(slow.job_tokens, share))
            self._workers.start(partial(run_parts, parts), partial(self._settle_and_go_on, parts))
        return self._was_aside or slow is not None

    def _take(self, engine: Engine, room: int) -> list[Part]:
        """Take the next batch for an engine: of each waiting request in turn some texts, while there is room."""
        parts: list[Part] = []
        num_tokens = 0
        while engine.waiting and num_tokens < room:
            ticket = next(iter(engine.waiting))
            del engine.waiting[ticket]
            before = ticket.waiting_tokens
            parts.append(Part(ticket=ticket, places=ticket.take(room - num_tokens)))
            num_tokens += before - ticket.waiting_tokens
            if ticket.num_taken < len(ticket.order):
                engine.waiting[ticket] = None
        if not engine.waiting:
            self._engines.remove(engine)
        self._metrics.ran(
            engine.name,
            num_texts=sum(len(part.places) for part in parts),
            num_tokens=num_tokens,
            waiting_tokens=engine.waiting_tokens,
        )
        return parts

    def _settle_and_go_on(self, parts: list[Part], outcome: Outcome) -> None:
        self._settle(parts, outcome)
        self._flush()  # now, before the replies are written: the thread is free

    def _settle(self, parts: list[Part], outcome: Outcome) -> None:
        """Give rows, or the error, to those whom they belong to."""
        if outcome.error is not None and len({id(part.ticket) for part in parts}) > 1:
            for part in parts:  # one of them is at fault: each runs again, alone
                if not part.ticket.future.done():
                    self._ready.append((partial(run_parts, [part]), partial(self._settle_and_go_on, [part])))
            self._schedule()
            return
        start = 0
        for part in parts:
            stop, ticket = start + len(part.places), part.ticket
            if not ticket.future.done():
                if outcome.error is not None:
                    ticket.future.set_exception(_told(outcome.error))
                else:
                    ticket.put(part.places, outcome.result[start:stop])
            start = stop


def _told(error: Exception) -> Exception:
    return Refusal("late", "the texts took too long; send fewer") if isinstance(error, StuckError) else error
