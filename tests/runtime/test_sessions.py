from __future__ import annotations

import shutil
import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from kdserve.runtime import Encoder
from kdserve.runtime.sessions import Sessions
from kdserve.samples import parallel

MODEL = Path(__file__).parent / "bundles" / "transformer" / "model.onnx"


def opened(model: Path, *, most: int) -> Sessions:
    return Sessions(model, device="cpu", output="sentence_embedding", most=most)


def lent(sessions: Sessions, num: int) -> list[object]:
    """The sessions that so many get at the same time."""
    with ExitStack() as stack:
        return [stack.enter_context(sessions.one()) for _ in range(num)]


def test_each_at_the_same_time_gets_a_session_of_its_own_up_to_the_most() -> None:
    sessions = opened(MODEL, most=3)
    first, second, third, fourth, fifth = lent(sessions, 5)
    assert len({id(first), id(second), id(third)}) == 3
    assert fourth is first
    assert fifth is first
    assert {id(one) for one in lent(sessions, 3)} == {id(first), id(second), id(third)}


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_no_other_is_opened_from_a_file_that_changed(tmp_path: Path, change: str) -> None:
    model = tmp_path / "model.onnx"
    shutil.copy(MODEL, model)
    sessions = opened(model, most=2)
    model.unlink()
    if change == "replaced":
        model.write_bytes(b"no graph")
    first, second = lent(sessions, 2)
    assert first is second


def test_threads_that_come_while_the_last_is_opened_open_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that saw room for another, and was then held up until somebody else had filled it."""
    sessions, own = opened(MODEL, most=2), threading.Lock()
    with ExitStack() as stack:

        class Lock:
            is_awaited = False

            def acquire(self, *, blocking: bool) -> bool:
                if not self.is_awaited:
                    self.is_awaited = True
                    stack.enter_context(sessions.one())
                return own.acquire(blocking=blocking)

            def release(self) -> None:
                own.release()

        monkeypatch.setattr(sessions, "_opening", Lock())
        first, *others = [stack.enter_context(sessions.one()) for _ in range(4)]
    assert others == [first] * 3


def test_threads_with_sessions_of_their_own_give_the_same_bits() -> None:
    texts = [text for sentences in parallel().values() for text in sentences[:60]]
    one, several = (Encoder.load(MODEL.parent, num_threads=number) for number in (1, 4))
    expected = one.encode_document(texts).tobytes()
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(several.encode_document(texts).tobytes())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3
    assert np.isfinite(np.frombuffer(expected, np.float32)).all()
