"""From a published student's name to its bundle's folder."""

from __future__ import annotations

import re
from pathlib import Path

import kdserve
from kdserve.errors import FolderError
from kdserve.manifest import MANIFEST_NAME

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def published_names() -> list[str]:
    """List the students whose bundles ship with this installation."""
    installed, checkout = _homes()
    found = [path.parent.name for path in installed.glob(f"*/{MANIFEST_NAME}")]
    found += [path.parent.parent.name for path in checkout.glob(f"*/bundle/{MANIFEST_NAME}")]
    return sorted(set(found))


def find_bundle(folder_or_name: str | Path) -> Path:
    """Return the bundle folder for a path or a published name; the name wins, `./name` means the folder.

    Raises:
        FolderError: neither a folder nor a published name.
    """
    if isinstance(folder_or_name, str) and _NAME.fullmatch(folder_or_name):
        installed, checkout = _homes()
        for folder in (installed / folder_or_name, checkout / folder_or_name / "bundle"):
            if (folder / MANIFEST_NAME).is_file():
                return folder
    if not Path(folder_or_name).is_dir():
        names = ", ".join(published_names()) or "none"
        raise FolderError(f"there is no folder {folder_or_name}, nor a published student of that name ({names})")
    return Path(folder_or_name)


def _homes() -> tuple[Path, Path]:
    """Where bundles lie in an installed wheel, and in a source checkout."""
    package = Path(kdserve.__file__).parent
    return package / "bundles", package.parent / "models"
