"""Open whatever a user calls a model: a bundle folder, a student folder, a published name, or a teacher's name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kdserve.datatypes import Embedder
from kdserve.errors import FolderError, MissingExtraError
from kdserve.manifest import MANIFEST_NAME, kind_of
from kdserve.runtime.published import find_bundle, published_names

DEFAULT_TEACHER = "all-MiniLM-L6-v2"
PACKAGED_TEACHERS: dict[str, tuple[str, ...]] = {DEFAULT_TEACHER: ("en",), "multilingual-e5-small": ()}
"""Teachers whose weights come as a Python package, and their languages; none: more than can be listed."""
Device = Literal["cpu", "cuda"]
Origin = Literal["bundle", "sentence-transformers"]


def origin_of(model: str) -> Origin:
    """Say which library opens `model`: our runtime, or sentence-transformers for teachers and student folders.

    Raises:
        FolderError: a folder that neither of them can open.
    """
    folder = Path(model)
    if model in published_names():
        return "bundle"
    if not folder.exists():
        is_teacher = model in PACKAGED_TEACHERS or "/" in model
        return "sentence-transformers" if is_teacher else "bundle"
    if (folder / "modules.json").is_file() and kind_of(folder) != "bundle":
        return "sentence-transformers"
    if (folder / MANIFEST_NAME).is_file():
        return "bundle"
    raise FolderError(f"{folder} is no bundle, student or sentence-transformers folder; name one of these")


def open_model(model: str, *, device: Device = "cpu", num_threads: int | None = None) -> Embedder:
    """Open `model` with `num_threads` threads; None leaves each library its own default.

    Raises:
        FolderError: no such folder, or a damaged one.
        EncodeError: the device is not there.
        MissingExtraError: the packages that open it are not installed.
    """
    if origin_of(model) == "bundle":
        from kdserve.runtime import Encoder

        return Encoder.load(model, device=device, num_threads=num_threads)
    try:
        import torch

        from kdserve.distill.teachers.embedder import load_teacher
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sentence-transformers", _teacher_extras(model)) from error
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    # on a CPU padding costs most, so texts sorted by length go in small batches, as is that library's default
    return load_teacher(model, device=device, batch_size=32 if device == "cpu" else 256)


def _teacher_extras(model: str) -> str:
    return "distill,teacher" if model in PACKAGED_TEACHERS else "distill"


def find_student(model: str, *, writers: bool = False) -> Path:
    """Return the sentence-transformers folder of a student, or of a packaged teacher by its name; where `writers` will
    do, a student's that writes too.

    Raises:
        MissingExtraError: the packages that hold or unpack the teacher are not installed.
        FolderError: the name is that of a published bundle, or the student writes.
    """
    is_published = model in published_names("any") and not Path(model).is_dir()
    folder = find_bundle(model, kind="any") if is_published else Path(model)
    if not writers and kind_of(folder) in ("translator", "sequence-student"):
        raise FolderError(f"{model} writes texts and gives no vectors; name a student that does")
    if is_published:
        raise FolderError(f"{model} is a published bundle; kdserve reopen {model} --out STUDENT makes a student of it")
    if model not in PACKAGED_TEACHERS:
        return Path(model)
    try:
        from kdserve.distill.teachers.embedder import find_teacher
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sentence-transformers", _teacher_extras(model)) from error
    return find_teacher(model)
