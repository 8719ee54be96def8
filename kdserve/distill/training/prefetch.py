"""Prepare the next batches in a thread while the current one is computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_DEPTH = 4


def prefetch(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Yield the items in order, up to four of them made ahead. An error in `items` is raised where it is awaited."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=_DEPTH)
    stopped = threading.Event()

    def put(item: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None)
        except BaseException as error:  # handed over, not swallowed
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
