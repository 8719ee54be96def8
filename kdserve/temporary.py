"""Folders for what waits on disk while a command runs. The environment's TMPDIR says where they are."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kdserve.errors import FolderError
from kdserve.staging import aside


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """Yield a folder that is gone after the block, and remove what a process that was killed left of such a one.

    What is written there goes through `into`.

    Raises:
        FolderError: no folder for temporary files can be written.
    """
    with ExitStack() as stack:
        try:
            made = aside(Path(tempfile.gettempdir()) / f"kdserve-{name}", make=_private)
            folder = stack.enter_context(made)
        except OSError as error:
            raise FolderError(f"no folder for temporary files can be written ({error.strerror}); set TMPDIR") from error
        yield folder


def _private(folder: Path) -> None:
    folder.mkdir(mode=0o700)


@contextmanager
def into(folder: Path) -> Iterator[None]:
    """Blame a temporary folder for what cannot be written inside the block, not what the command writes in the end.

    Raises:
        FolderError: the disk is full, or breaks.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"no space left for temporary files in {folder.parent}; free some"
        if not is_full:
            what = f"temporary files cannot be written to {folder.parent} ({error.strerror or error}); mend that"
        raise FolderError(f"{what}, or set TMPDIR to a folder on another disk") from error
