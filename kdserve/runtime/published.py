"""From a published name to its bundle's folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import kdserve
from kdserve.errors import FolderError
from kdserve.manifest import MANIFEST_NAME, kind_of

Published = Literal["bundle", "classifier", "translator"]
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def published_names(kind: Published = "bundle") -> list[str]:
    """List the students whose bundles ship with this installation, or the classifiers or translators."""
    installed, checkout = _homes()
    found = {path.parent.name: path.parent for path in installed.glob(f"*/{MANIFEST_NAME}")}
    found |= {path.parent.parent.name: path.parent for path in checkout.glob(f"*/bundle/{MANIFEST_NAME}")}
    return sorted(name for name, folder in found.items() if kind_of(folder) == kind)


def find_bundle(folder_or_name: str | Path, *, kind: Published = "bundle") -> Path:
    """Return the bundle folder for a path or a published name; the name wins, `./name` means the folder.

    Raises:
        FolderError: neither a folder nor a published name.
    """
    if isinstance(folder_or_name, str) and _NAME.fullmatch(folder_or_name):
        for folder in _folders(folder_or_name):
            if (folder / MANIFEST_NAME).is_file():
                return folder
    if not Path(folder_or_name).is_dir():
        names = ", ".join(published_names(kind)) or "none"
        what = "student" if kind == "bundle" else kind
        raise FolderError(f"there is no folder {folder_or_name}, nor a published {what} of that name ({names})")
    return Path(folder_or_name)


def lasting_name(folder: Path, name: str) -> str:
    """Return what finds a bundle from another process or machine: its published name, else its absolute path."""
    if _NAME.fullmatch(name) and any(folder == home for home in _folders(name)):
        return name
    return str(folder.resolve())


def require_fingerprint(found: str, expected: str, source: str) -> None:
    """Refuse a bundle that is another than the one pickled.

    Raises:
        FolderError: its fingerprint is another.
    """
    if found != expected:
        raise FolderError(
            f"{source} is {found[:12]} here, the one pickled was {expected[:12]}; install the same version everywhere"
        )


def _folders(name: str) -> tuple[Path, Path]:
    installed, checkout = _homes()
    return installed / name, checkout / name / "bundle"


def _homes() -> tuple[Path, Path]:
    """Where bundles lie in an installed wheel, and in a source checkout."""
    package = Path(kdserve.__file__).parent
    return package / "bundles", package.parent / "models"
