"""Copies of a model's folder, in which something then changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdserve.errors import FolderError
from kdserve.manifest import MANIFEST_NAME, staged_folder


@contextmanager
def staged_copy(source: Path, out: Path, *, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a copy of a folder, less its manifest and files of some names (patterns), that becomes `out`.

    Raises:
        FolderError: `out` lies inside the folder; else as `staged_folder`.
    """
    if out.resolve().is_relative_to(source.resolve()):
        raise FolderError(f"{out} lies inside {source}, which would be copied into itself; choose another place")
    with staged_folder(out) as folder:
        ignored = shutil.ignore_patterns(MANIFEST_NAME, *without)
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=ignored)
        yield folder
