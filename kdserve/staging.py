"""Folders and files that commit whole: written aside, flushed to disk and renamed, or gone."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from kdserve.disk import sync_path, sync_tree, write_error
from kdserve.errors import FolderError, KdserveError
from kdserve.locks import folder_in_use
from kdserve.manifest import MANIFEST_NAME

_ATTEMPTS = 3
"""Another process may take what was just made for left, before it is in use; on file systems without locks none is."""


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that becomes `target` if the block ends well, and vanishes if not.

    The block must leave a manifest there (`write_manifest`). What a process that was killed left of the same target
    vanishes too.

    Raises:
        FolderError: as `require_new`, or its parent cannot be written, or the disk is full.
    """
    with _refusals(target), aside(target) as staging:
        yield staging
        if not (staging / MANIFEST_NAME).is_file():
            raise AssertionError(f"{target} was staged without a manifest")
        sync_tree(staging)
        _commit(staging, target)


@contextmanager
def staged_file(target: Path) -> Iterator[IO[bytes]]:
    """Yield what becomes the file `target` if the block ends well, and vanishes if not; else as `staged_folder`."""
    with _refusals(target), aside(target, make=Path.touch) as staging:
        with staging.open("wb") as file:
            yield file
        sync_path(staging)
        _commit(staging, target)


def require_new(target: Path) -> None:
    """Refuse a file or folder to be made that is there, or would lie in a folder that kdserve made.

    Raises:
        FolderError: it is so.
    """
    if target.exists() or target.is_symlink():
        raise FolderError(f"{target} exists already; choose another name or remove it first")
    require_outside(target)


def require_outside(target: Path) -> None:
    """Refuse what would be made in a folder that kdserve made.

    Raises:
        FolderError: it would.
    """
    for above in target.resolve().parents:
        with suppress(PermissionError):
            if (above / MANIFEST_NAME).is_file():
                raise FolderError(
                    f"{target} lies inside {above}, whose {MANIFEST_NAME} lists all that may be there; choose another "
                    "place"
                )


@contextmanager
def aside(target: Path, *, make: Callable[[Path], object] = Path.mkdir) -> Iterator[Path]:
    """Yield an empty folder, or what else `make` makes, beside `target`, which is gone after the block.

    It is in use until then; what a process that was killed left so is removed.
    """
    remove_abandoned(target)
    with ExitStack() as stack:
        for _ in range(_ATTEMPTS):
            staging = _partial_name(target)
            stack.callback(_remove, staging)
            make(staging)
            with suppress(FileNotFoundError):
                if stack.enter_context(folder_in_use(staging)) and staging.exists():
                    break
        yield staging


@contextmanager
def _refusals(target: Path) -> Iterator[None]:
    """Make a new file or folder inside; what the system says is told of it."""
    require_new(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except KdserveError:
        raise
    except Exception as error:  # also of libraries in Rust, which share no kind
        if (refusal := _system_refusal(error)) is None:
            raise
        raise write_error(target, refusal) from error


def _commit(staging: Path, target: Path) -> None:
    if target.exists():
        raise FolderError(f"{target} appeared meanwhile; it was left alone, choose another name")
    staging.rename(target)
    sync_path(target.parent)


def _system_refusal(error: Exception) -> OSError | None:
    """What the system said where something could not be written: libraries in Rust have its number in their text."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def remove_folder(folder: Path) -> None:
    """Remove a folder that a kill meanwhile leaves whole, or under a name that `remove_abandoned` knows."""
    removed = _partial_name(folder)
    folder.rename(removed)
    shutil.rmtree(removed)


def remove_abandoned(target: Path) -> None:
    """Remove what a process that was killed left of what it wrote or removed."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with suppress(OSError), folder_in_use(left) as is_free:
            if is_free:
                _remove(left)


def _partial_name(target: Path) -> Path:
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"


def _remove(path: Path) -> None:
    """Remove a file or folder if it is there and can be removed; where it cannot, that is told of what was written."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
