"""Folders that commit whole: written aside, flushed to disk and renamed, or gone."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdserve.disk import sync_path, sync_tree, write_error
from kdserve.errors import FolderError, KdserveError
from kdserve.locks import folder_in_use
from kdserve.manifest import MANIFEST_NAME


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that becomes `target` if the block ends well, and vanishes if not.

    The block must leave a manifest there (`write_manifest`). What a process that was killed left of the same target
    vanishes too.

    Raises:
        FolderError: as `require_new`, or its parent cannot be written, or the disk is full.
    """
    target = Path(target)
    require_new(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target)
        staging = _aside(target)
        staging.mkdir()
    except OSError as error:
        raise write_error(target, error) from error
    try:
        with folder_in_use(staging):
            yield staging
            if not (staging / MANIFEST_NAME).is_file():
                raise AssertionError(f"{target} was staged without a manifest")
            sync_tree(staging)
            if target.exists():
                raise FolderError(f"{target} appeared meanwhile; it was left alone, choose another name")
            staging.rename(target)
            sync_path(target.parent)
    except KdserveError:
        raise
    except Exception as error:  # also of libraries in Rust, which share no kind
        if (refusal := _system_refusal(error)) is None:
            raise
        raise write_error(target, refusal) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def require_new(target: Path) -> None:
    """Refuse a folder to be made that is there, or would lie in another that kdserve made.

    Raises:
        FolderError: it is so.
    """
    if target.exists() or target.is_symlink():
        raise FolderError(f"{target} exists already; choose another name or remove it first")
    for above in target.resolve().parents:
        with suppress(PermissionError):
            if (above / MANIFEST_NAME).is_file():
                raise FolderError(
                    f"{target} lies inside {above}, whose {MANIFEST_NAME} lists all that may be there; choose another "
                    "place"
                )


def _system_refusal(error: Exception) -> OSError | None:
    """What the system said where something could not be written: libraries in Rust have its number in their text."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def remove_folder(folder: Path) -> None:
    """Remove a folder that a kill meanwhile leaves whole, or under a name that `remove_abandoned` knows."""
    aside = _aside(folder)
    folder.rename(aside)
    shutil.rmtree(aside)


def remove_abandoned(target: Path) -> None:
    """Remove what a process that was killed left of a folder that it wrote or removed."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with suppress(OSError), folder_in_use(left) as is_free:
            if is_free:
                shutil.rmtree(left)


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
