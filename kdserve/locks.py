"""Locks on folders. The system lets go of them when their process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdserve.errors import FolderError

LOCK_NAME = "writer.lock"
_POLL_S = 0.2


@contextmanager
def folder_lock(folder: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Be the one writer of a folder that lives on.

    Where another process writes there, `waiting` is called ever again until that is done; without it that is an error.

    Raises:
        FolderError: another process writes there, or the folder cannot be written or locked.
    """
    try:
        file = (folder / LOCK_NAME).open("a")
    except OSError as error:
        raise FolderError(f"{folder} cannot be written ({error.strerror}); nothing was changed") from error
    with file:
        while (refusal := _try_lock(file.fileno())) is not None:
            if not isinstance(refusal, BlockingIOError):
                raise FolderError(f"{folder} cannot be locked ({refusal.strerror}); use a folder on a local disk")
            if waiting is None:
                raise FolderError(f"another process is writing to {folder}; wait until it is done")
            waiting()
            time.sleep(_POLL_S)
        yield


@contextmanager
def folder_in_use(folder: Path) -> Iterator[bool]:
    """Mark a folder as in use, without a file in it; yields whether it was not so already.

    False too where the file system knows no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _try_lock(descriptor) is None
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> OSError | None:
    """Lock, or say why not: a BlockingIOError where another process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as refusal:
        return refusal
    return None
