"""Copies of a model's folder, in which something then changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors.numpy import save_file

from kdserve.disk import read_error, write_error
from kdserve.errors import FolderError
from kdserve.export.read.student import StudentFolder
from kdserve.export.read.tensors import INDEX_NAME, WEIGHTS_NAME, weight_files
from kdserve.manifest import MANIFEST_NAME, write_manifest
from kdserve.model_settings import StudentSettings, read_student_settings
from kdserve.staging import require_new, staged_folder


@contextmanager
def staged_copy(source: Path, out: Path, *, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a copy of a folder, less its manifest and files of some names (patterns), that becomes `out`.

    Raises:
        FolderError: as `require_apart` and `staged_folder`, or a file of the folder cannot be read.
    """
    require_apart(source, out)
    with staged_folder(out) as folder:
        ignored = shutil.ignore_patterns(MANIFEST_NAME, *without)
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=ignored, copy_function=partial(_copy, out=out))
        yield folder


def require_apart(source: Path, out: Path) -> None:
    """Find out before a long work that its outcome could not be written.

    Raises:
        FolderError: `out` lies inside the folder; else as `require_new`.
    """
    if out.resolve().is_relative_to(source.resolve()):
        raise FolderError(f"{out} lies inside {source}, which would be copied into itself; choose another place")
    require_new(out)


def _copy(source: str, target: str, *, out: Path) -> None:
    """Copy one file; the errors of shutil.copytree would have no numbers."""
    try:
        shutil.copy2(source, target)
    except OSError as error:
        is_unread = error.filename == source and error.filename2 is None
        raise (read_error(Path(source), error) if is_unread else write_error(out, error)) from error


def replace_weights(body: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a copy's tensors in one file, in the place of those that it has."""
    for stale in (body / INDEX_NAME, *weight_files(body)):
        stale.unlink(missing_ok=True)
    save_file(dict(tensors), body / WEIGHTS_NAME, metadata={"format": "pt"})


def describe_copy(
    student: StudentFolder, folder: Path, *, name: str, parent: str, languages: Sequence[str], dim: int
) -> None:
    """Write the manifest of a changed copy: what the student's own says, if it has one, under another name.

    Of the student's languages those in `languages` stay, all of these where it names none. `parent` is what the
    student is to the copy, `dim` the width of its vectors.
    """
    if (student.folder / MANIFEST_NAME).is_file():
        settings = read_student_settings(student.folder)
    else:
        settings = StudentSettings(
            name="",
            family=student.family,
            dim=dim,
            max_tokens=student.max_tokens,
            languages=(),
            weak_languages=(),
            table_bits=0,
        )
    own, weak = settings.languages, settings.weak_languages
    kept = replace(
        settings,
        name=name,
        languages=tuple(code for code in (own if own or weak else languages) if code in languages),
        weak_languages=tuple(code for code in weak if code in languages),
    )
    parents = {**student.parents, parent: student.fingerprint}
    write_manifest(folder, kind="student", parents=parents, settings=kept.to_json())
