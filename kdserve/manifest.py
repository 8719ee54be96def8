"""Folders that commit whole and know what they hold.

Every stage writes its folder aside, records size and SHA-256 of each file in `kdserve.json`, flushes everything to
disk and renames. A reader verifies the record before it parses anything. Equal inputs give byte-identical manifests:
no dates, sorted keys.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from kdserve.errors import FolderError, KdserveError
from kdserve.json_files import parse_json
from kdserve.kinds import Kind, mistaken
from kdserve.locks import folder_in_use

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


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"


def remove_abandoned(target: Path) -> None:
    """Remove what a process that was killed left of a folder that it wrote or removed."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with suppress(OSError), folder_in_use(left) as is_free:
            if is_free:
                shutil.rmtree(left)


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


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to disk, each with the mode that the umask left `folder` itself."""
    mode = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)  # some libraries write 0600, as into a temporary file
        sync_path(path)
    sync_path(folder)


def sync_path(path: Path) -> None:
    """Flush one file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def write_error(target: Path, error: OSError) -> FolderError:
    """The error to raise when writing `target` failed, whose cause is `error`."""
    if error.errno == errno.ENOSPC:
        return FolderError(f"no space left on the disk of {target}; nothing was written, free some space and try again")
    return FolderError(f"{target} cannot be written ({error.strerror or error}); nothing was left behind")


def read_error(path: Path, error: OSError) -> FolderError:
    """The error to raise when reading `path` failed for a reason that is no damage, or when it is not there."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return FolderError(f"{path} cannot be opened: too many files are open; close some, or raise `ulimit -n`")
    if error.errno in (errno.EACCES, errno.EPERM):
        return FolderError(f"{path} may not be read by this user; change its permissions")
    if error.errno == errno.ENOENT:
        return FolderError(f"{path} is missing; copy the folder again or make it again")
    return FolderError(f"{path} cannot be read ({error.strerror or error}); check the disk")
