"""Folders that know what they hold.

Every stage records size and SHA-256 of each file of its folder in `kdserve.json`. A reader verifies the record before
it parses anything. Equal inputs give byte-identical manifests: no dates, sorted keys.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from kdserve.disk import read_error, sync_path
from kdserve.errors import FolderError
from kdserve.json_files import parse_json
from kdserve.kinds import Kind, mistaken

MANIFEST_NAME = "kdserve.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """Size and checksum of one file; `sha256` is hex."""

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Measure a file."""
        return cls(size_bytes=path.stat().st_size, sha256=hash_file(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Manifest of a folder.

    `parents` maps a role ("teacher", "student", "encoder") to that folder's fingerprint. `settings` is JSON that
    only the kind's own room reads, through a dataclass of its own. `files` maps a POSIX path inside the folder to its
    record.
    """

    kind: Kind
    made_by: str
    parents: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the sorted checksums of the files."""
        lines = "".join(f"{record.sha256}  {name}\n" for name, record in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def write_manifest(
    folder: Path,
    *,
    kind: Kind,
    parents: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Manifest:
    """Record every file below `folder` in its `kdserve.json` and return the manifest."""
    from kdserve import __version__

    files = record_files(folder)
    manifest = Manifest(
        kind=kind, made_by=f"kdserve {__version__}", parents=parents or {}, settings=settings or {}, files=files
    )
    (folder / MANIFEST_NAME).write_text(_as_json(manifest), encoding="utf-8")
    return manifest


def replace_manifest(folder: Path, manifest: Manifest) -> None:
    """Make `manifest` the one of a folder that lives on, in one atomic step: write aside, flush, rename, flush."""
    aside = folder / f"{MANIFEST_NAME}.new"
    with aside.open("w", encoding="utf-8") as file:
        file.write(_as_json(manifest))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / MANIFEST_NAME)
    sync_path(folder)


def kind_of(folder: Path) -> str | None:
    """Say what kind of folder it is, None where there is no manifest.

    Raises:
        FolderError: the manifest is damaged.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        return str(parse_json(path.read_text(encoding="utf-8"))["kind"])
    except OSError as error:
        raise read_error(path, error) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FolderError(f"{path} is damaged ({error}); make the folder again") from error


def read_manifest(folder: Path, *, kind: Kind) -> Manifest:
    """Read and check `kdserve.json`, without looking at the files that it lists.

    Raises:
        FolderError: no folder, no manifest, a damaged one, another kind or format, or a path that leaves the folder.
    """
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder.is_file():
            raise FolderError(f"{folder} is a file; name a folder made by kdserve ({kind})") from error
        if not folder.is_dir():
            raise FolderError(f"there is no folder {folder}; check the path") from error
        raise FolderError(f"{folder} has no {MANIFEST_NAME}; it is no {kind} made by kdserve") from error
    except OSError as error:
        raise read_error(path, error) from error
    try:
        record = parse_json(content.decode())
        found_format, found_kind = record["format"], record["kind"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FolderError(f"{path} is damaged ({error}); make the {kind} again") from error
    if found_format != FORMAT_VERSION:
        raise FolderError(f"{path} has format {found_format!r}, this kdserve reads {FORMAT_VERSION}; update kdserve")
    if found_kind != kind:
        raise FolderError(f"{folder} is {mistaken(str(found_kind), kind)}")
    try:
        return _parse(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FolderError(f"{path} is damaged ({error}); make the {kind} again") from error


def verify_folder(folder: Path, *, kind: Kind, needs: Sequence[str] = ()) -> Manifest:
    """Read the manifest and check size and SHA-256 of every file that it lists; those that it `needs` must be there.

    Raises:
        FolderError: as `read_manifest`, or a file is missing, is a link, has other bytes than recorded, or is there
            and not in the manifest (in an index it may be).
    """
    folder = Path(folder)
    manifest = read_manifest(folder, kind=kind)
    for name, record in manifest.files.items():
        verify_file(folder, name, record)
    if kind != "index":  # where a change may be under way
        _refuse_unlisted(folder, manifest)
    for name in needs:
        if name not in manifest.files:
            raise FolderError(f"{folder} lists no {name} in its manifest; export the {kind} again")
    return manifest


def _refuse_unlisted(folder: Path, manifest: Manifest) -> None:
    """Refuse a file that the manifest does not list: what reads the folder could draw on it unverified."""
    for path in sorted(folder.rglob("*")):
        is_file = path.is_symlink() or not path.is_dir()
        if is_file and path.name != MANIFEST_NAME and path.relative_to(folder).as_posix() not in manifest.files:
            raise FolderError(f"{path} is not in the manifest of {folder}; remove it or make the {manifest.kind} again")


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Verify and use a folder inside this block: what was verified is then what was used.

    Raises:
        FolderError: a file of the folder changed meanwhile, came or went.
    """
    before = _marks(folder)
    yield
    if _marks(folder) != before:
        raise FolderError(f"{folder} changed while it was opened; open it again")


def _marks(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Facts that no file keeps when it is replaced or written to."""
    marks: dict[Path, tuple[int, ...]] = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found = path.lstat()
            marks[path] = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return marks


def verify_file(folder: Path, name: str, record: FileRecord) -> Path:
    """Check one file of `folder` against its record and return its path."""
    path = folder / name
    advice = "copy the folder again or make it again"
    try:
        if any((folder / parent).is_symlink() for parent in [PurePosixPath(name), *PurePosixPath(name).parents][:-1]):
            raise FolderError(f"{path} is a symbolic link, which is refused; {advice}")
        if not path.is_file():
            raise FolderError(f"{path} is missing; {advice}")
        size = path.stat().st_size
        if size != record.size_bytes:
            raise FolderError(f"{path} has {size} bytes, its manifest says {record.size_bytes}; {advice}")
        if hash_file(path) != record.sha256:
            raise FolderError(f"{path} does not match its SHA-256 in {MANIFEST_NAME}; {advice}")
    except OSError as error:
        raise read_error(path, error) from error
    return path


def record_files(folder: Path) -> dict[str, FileRecord]:
    """The records of all files below a folder but manifests, by POSIX path."""
    return {
        path.relative_to(folder).as_posix(): FileRecord.of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_json(manifest: Manifest) -> str:
    record = {
        "format": FORMAT_VERSION,
        "kind": manifest.kind,
        "made_by": manifest.made_by,
        "parents": dict(manifest.parents),
        "settings": dict(manifest.settings),
        "files": {name: {"size_bytes": r.size_bytes, "sha256": r.sha256} for name, r in manifest.files.items()},
    }
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(record: Mapping[str, Any]) -> Manifest:
    files = {}
    for name, entry in record["files"].items():
        parts = PurePosixPath(name)
        if not name or parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
            raise ValueError(f"file name {name!r} leaves the folder")
        size, checksum = entry["size_bytes"], entry["sha256"]
        if type(size) is not int or size < 0 or not isinstance(checksum, str):
            raise TypeError(f"the record of {name!r} has no size and checksum")
        files[name] = FileRecord(size_bytes=size, sha256=checksum)
    parents, settings = record["parents"], record["settings"]
    if not isinstance(parents, dict) or not isinstance(settings, dict):
        raise TypeError("parents and settings must be objects")
    if not all(isinstance(fingerprint, str) for fingerprint in parents.values()):
        raise TypeError("parents must be fingerprints")
    return Manifest(
        kind=record["kind"], made_by=str(record["made_by"]), parents=parents, settings=settings, files=files
    )
