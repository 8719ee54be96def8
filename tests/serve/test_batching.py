"""The queue: who runs with whom, who is refused, and what one request can do to another."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from kdserve import Encoder
from kdserve.runtime.tokens import TokenizedTexts
from kdserve.serve.batching import Batcher
from kdserve.serve.metrics import Metrics
from kdserve.serve.refusals import Refusal
from kdserve.serve.settings import Limits
from kdserve.serve.tickets import Answer, Engine
from kdserve.serve.workers import NICENESS, Workers

BUNDLE = Path(__file__).parents[1] / "runtime" / "bundles" / "transformer"
BAD, STUCK, NOTED = 999, 666, 555
PATIENCE_S = 20
LIMITS = Limits()


def tokenize(texts: list[str]) -> TokenizedTexts:
    """A text is its tokens: "1 2 3"."""
    return TokenizedTexts(ids=[[int(token) for token in text.split()] for text in texts], is_cut=[False] * len(texts))


class Model:
    """Gives each text the sum of its tokens, keeps what ran together, and waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.noted: list[str] = []
        self.num_stuck = 0
        self.gate, self.stuck = threading.Event(), threading.Event()
        self.gate.set()

    def run(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        self.batches.append([list(text) for text in ids])
        tokens = [token for text in ids for token in text]
        if STUCK in tokens:
            self.num_stuck += 1
            self.stuck.wait(60)
        self.gate.wait(60)
        if NOTED in tokens:
            self.noted.append("batch")
        if BAD in tokens:
            raise ValueError("a bad token")
        return np.array([[sum(text)] for text in ids], np.float32)


def play(
    scene: Callable[[Callable[..., asyncio.Task[Answer]], Model, Engine], Awaitable[None]],
    *,
    num_threads: int = 1,
    limits: Limits = LIMITS,
    inline_tokens: int = 0,
) -> None:
    """Play a scene with a batcher of its own. `ask(text, …)` sends one request."""
    model = Model()
    engine = Engine(name="sums", run=model.run, inline_tokens=inline_tokens)

    async def main() -> None:
        workers = Workers(num_threads, patience_s=PATIENCE_S)
        workers.open()
        batcher = Batcher(workers, limits, Metrics())

        def ask(*texts: str, wait: Callable[[asyncio.Future[object]], None] = lambda _: None) -> asyncio.Task[Answer]:
            return asyncio.ensure_future(batcher.run(engine, tokenize, list(texts), truncate=True, on_wait=wait))

        try:
            await asyncio.wait_for(scene(ask, model, engine), 60)
        finally:
            model.gate.set()
            model.stuck.set()
            workers.close()

    asyncio.run(main())


async def until_running(model: Model) -> None:
    while not model.batches:
        await asyncio.sleep(0.005)


def test_what_arrives_while_a_thread_is_busy_runs_together_afterwards():
    async def scene(ask, model, engine):
        model.gate.clear()
        first = ask("1 2")
        await until_running(model)
        others = [ask(f"{n} 1") for n in range(20)]
        await asyncio.sleep(0)
        model.gate.set()
        assert (await first).rows.tolist() == [[3]]
        assert [(await one).rows.tolist() for one in others] == [[[n + 1]] for n in range(20)]
        assert [len(batch) for batch in model.batches] == [1, 20]

    play(scene)


def test_what_arrives_in_one_moment_runs_together_and_at_once_where_it_is_little():
    async def scene(ask, model, engine):
        waited = []
        answers = await asyncio.gather(*(ask(f"{n}", wait=waited.append) for n in range(5)))
        assert [answer.rows.tolist() for answer in answers] == [[[n]] for n in range(5)]
        assert [len(batch) for batch in model.batches] == [5]
        assert waited == []

    play(scene, inline_tokens=10)


def test_a_quick_model_runs_in_slices_between_which_others_have_their_turn():
    async def scene(ask, model, engine):
        large = ask(*["1 " * 100] * 40)
        await asyncio.sleep(0)
        small = ask("5")
        assert (await small).rows.tolist() == [[5]]
        assert not large.done()
        assert (await large).rows.tolist() == [[100]] * 40
        assert max(sum(map(len, batch)) for batch in model.batches) <= 400

    play(scene, inline_tokens=300)


def test_a_large_request_does_not_hold_up_a_small_one():
    async def scene(ask, model, engine):
        model.gate.clear()
        large = ask(*["1 " * 100] * 200)
        await until_running(model)
        small = ask("5")
        await asyncio.sleep(0)
        model.gate.set()
        assert (await small).rows.tolist() == [[5]]
        assert [5] in [text for batch in model.batches[:3] for text in batch]
        assert (await large).rows.tolist() == [[100]] * 200

    play(scene)


def test_texts_of_one_length_run_together_and_come_back_in_their_order():
    async def scene(ask, model, engine):
        texts = ["1 " * (4 + 60 * (n % 2)) for n in range(40)]
        answer = await ask(*texts)
        assert answer.rows[:, 0].tolist() == [4 + 60 * (n % 2) for n in range(40)]
        assert answer.num_tokens == [4 + 60 * (n % 2) for n in range(40)]
        lengths = [len(text) for batch in model.batches for text in batch]
        assert lengths == sorted(lengths)

    play(scene)


def test_texts_without_a_token_are_answered_in_company_too():
    async def scene(ask, model, engine):
        answers = await asyncio.gather(ask("", ""), ask(""), ask("3"))
        assert [answer.rows.tolist() for answer in answers] == [[[0], [0]], [[0]], [[3]]]
        assert engine.waiting_tokens == 0

    play(scene)
    play(scene, inline_tokens=10)


def test_a_real_models_rows_do_not_depend_on_who_else_asks():
    encoder = Encoder.load(BUNDLE, num_threads=1)
    texts = [f"{n} green bottles " * (1 + n % 5) for n in range(60)]
    engine = Engine(name="tiny", run=encoder.encode_tokens)

    async def main() -> list[Answer]:
        workers = Workers(2, patience_s=PATIENCE_S)
        workers.open()
        batcher = Batcher(workers, Limits(), Metrics())
        asked = [
            batcher.run(
                engine,
                lambda some: encoder.tokenize(some, role="document"),
                texts[start : start + 3],
                truncate=True,
                on_wait=lambda _: None,
            )
            for start in range(58)
        ]
        answers = await asyncio.gather(*asked)
        workers.close()
        return answers

    expected = encoder.encode_document(texts)
    for start, answer in enumerate(asyncio.run(main())):
        assert np.array_equal(answer.rows, expected[start : start + 3])


def test_batches_and_other_work_take_turns():
    model, done = Model(), list[str]()
    engine = Engine(name="sums", run=model.run)

    async def main() -> None:
        workers = Workers(1, patience_s=PATIENCE_S)
        workers.open()
        batcher = Batcher(workers, Limits(), Metrics())

        def ask(text: str) -> Awaitable[Answer]:
            return batcher.run(engine, tokenize, [text], truncate=True, on_wait=lambda _: None)

        model.gate.clear()
        first = asyncio.ensure_future(ask("1"))
        await until_running(model)
        others = [batcher.aside(lambda: done.append("other"), lambda _: None) for _ in range(6)]
        waiting = asyncio.gather(*others, ask(f"{NOTED}"))
        await asyncio.sleep(0.01)
        model.gate.set()
        await asyncio.gather(first, waiting)
        workers.close()

    model.noted = done
    asyncio.run(asyncio.wait_for(main(), 60))
    assert done == ["other", "batch", *["other"] * 5]


def test_over_the_bound_a_request_is_refused_whole_and_told_when_to_come_back():
    async def scene(ask, model, engine):
        model.gate.clear()
        running = ask("1 " * 100)
        await until_running(model)
        waiting = ask(*["2 " * 8] * 3)
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as caught:
            await ask("3")
        assert (caught.value.kind, caught.value.status) == ("overloaded", 429)
        headers = dict(caught.value.headers)
        assert int(headers[b"retry-after"]) >= 1
        assert int(headers[b"retry-after-ms"]) >= 50
        model.gate.set()
        await asyncio.gather(running, waiting)
        assert (await ask("3")).rows.tolist() == [[3]]
        assert engine.waiting_tokens == 0

    play(scene, limits=Limits(waiting_tokens=20))


def test_what_takes_a_model_longer_than_may_wait_is_refused_too():
    async def scene(ask, model, engine):
        engine.tokens_per_s = 10.0
        model.gate.clear()
        running = ask("1 " * 100)
        await until_running(model)
        waiting = ask("2 " * 20)
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as caught:
            await ask("3")
        assert dict(caught.value.headers)[b"retry-after-ms"] == b"2000"
        model.gate.set()
        await asyncio.gather(running, waiting)
        assert (await ask("3")).rows.tolist() == [[3]]

    play(scene, limits=Limits(waiting_s=2))


def test_a_cancelled_request_frees_its_place_and_is_never_run():
    async def scene(ask, model, engine):
        model.gate.clear()
        running = ask("1")
        await until_running(model)
        futures = []
        gone = ask("2 " * 30, wait=futures.append)
        await asyncio.sleep(0.01)
        assert engine.waiting_tokens == 30
        futures[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert engine.waiting_tokens == 0
        other = ask("3")
        model.gate.set()
        await asyncio.gather(running, other)
        assert model.batches == [[[1]], [[3]]]

    play(scene, limits=Limits(waiting_tokens=20))


def test_a_request_that_fails_fails_alone():
    async def scene(ask, model, engine):
        answers = await asyncio.gather(ask("1"), ask(f"{BAD}"), ask("2", "3"), return_exceptions=True)
        assert answers[0].rows.tolist() == [[1]]
        assert isinstance(answers[1], ValueError)
        assert answers[2].rows.tolist() == [[2], [3]]

    play(scene)
    play(scene, inline_tokens=100)


def test_a_request_that_hangs_hangs_alone():
    async def scene(ask, model, engine):
        asked = asyncio.gather(ask("1"), ask(f"{STUCK}"), ask("2"), return_exceptions=True)
        loop = asyncio.get_running_loop()
        for num_stuck in (1, 2):  # in company, then alone
            while model.num_stuck < num_stuck:
                await asyncio.sleep(0.005)
            loop.time = lambda now=loop.time: now() + PATIENCE_S
        answers = await asked
        assert [answers[0].rows.tolist(), answers[2].rows.tolist()] == [[[1]], [[2]]]
        assert isinstance(answers[1], Refusal)
        assert answers[1].kind == "late"
        assert (await ask("4")).rows.tolist() == [[4]]

    play(scene)


def test_lost_threads_are_replaced_counted_and_forgiven_when_they_come_back():
    async def main() -> None:
        workers, release = Workers(1, patience_s=0.05), threading.Event()
        workers.open()
        for _ in range(8):
            while not workers.num_idle:
                await asyncio.sleep(0.01)
            workers.start(release.wait, lambda _: None)
        while workers.num_lost < 8:
            await asyncio.sleep(0.01)
        assert not workers.is_well
        workers._patience_s = PATIENCE_S
        assert await workers.run(lambda: 3) == 3
        release.set()
        while workers.num_lost:
            await asyncio.sleep(0.01)
        assert workers.is_well
        workers.close()

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("kind", ["PanicException", "SystemExit"])
def test_what_is_no_exception_fails_its_job_and_the_thread_goes_on(kind: str):
    error = SystemExit if kind == "SystemExit" else type(kind, (BaseException,), {})

    def fail() -> None:
        raise error("index out of bounds")

    async def main() -> None:
        workers = Workers(1, patience_s=PATIENCE_S)
        workers.open()
        with pytest.raises(RuntimeError, match=f"{kind}: index out of bounds"):
            await workers.run(fail)
        assert (await workers.run(lambda: 3), workers.num_lost) == (3, 0)
        workers.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_more_tokens_than_a_request_may_have_are_refused():
    async def scene(ask, model, engine):
        with pytest.raises(Refusal, match="30 tokens, 20 are allowed"):
            await ask("1 " * 15, "1 " * 15)

    play(scene, limits=Limits(tokens=20))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere niceness is the whole process's")
def test_threads_give_way_to_the_event_loop():
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def main() -> int:
        workers = Workers(1, patience_s=PATIENCE_S)
        workers.open()
        found = await workers.run(niceness)
        workers.close()
        return found

    assert asyncio.run(main()) == min(19, niceness() + NICENESS)
