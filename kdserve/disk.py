"""Flushing to disk, and what to say when the system refuses to write or to read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kdserve.errors import FolderError


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
