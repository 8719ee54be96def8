"""From a published name to its bundle's folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import kdserve
from kdserve.errors import FolderError
from kdserve.manifest import MANIFEST_NAME, kind_of

Published = Literal["bundle", "classifier"]
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def published_names(kind: Published = "bundle") -> list[str]:
    """List the students whose bundles ship with this installation, or the classifiers."""
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
        installed, checkout = _homes()
        for folder in (installed / folder_or_name, checkout / folder_or_name / "bundle"):
            if (folder / MANIFEST_NAME).is_file():
                return folder
    if not Path(folder_or_name).is_dir():
        names = ", ".join(published_names(kind)) or "none"
        what = "student" if kind == "bundle" else kind
        raise FolderError(f"there is no folder {folder_or_name}, nor a published {what} of that name ({names})")
    return Path(folder_or_name)


def _homes() -> tuple[Path, Path]:
    """Where bundles lie in an installed wheel, and in a source checkout."""
    package = Path(kdserve.__file__).parent
    return package / "bundles", package.parent / "models"
