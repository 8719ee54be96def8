"""From a published name to its bundle's folder.

Bundles lie in the installed package, in a source checkout, and in data packages, which each put a folder of their name
into the namespace `kdserve_bundles`; the first that has the name counts.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import kdserve
from kdserve.errors import FolderError
from kdserve.manifest import MANIFEST_NAME, kind_of

Published = Literal["bundle", "classifier", "translator"]
PACKAGES = ("kdserve-base", "kdserve-gist", "kdserve-brief")
"""Published bundles that do not come with the package but as packages of their own."""
_DATA_PACKAGES = "kdserve_bundles"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def published_names(kind: Published | Literal["any"] = "bundle") -> list[str]:
    """List the students whose bundles ship with this installation, or the classifiers or translators, or all."""
    installed, checkout, *packages = _homes()
    found = {path.parent.parent.name for path in checkout.glob(f"*/bundle/{MANIFEST_NAME}")}
    found |= {path.parent.name for home in (installed, *packages) for path in home.glob(f"*/{MANIFEST_NAME}")}
    return sorted(name for name in found if (folder := _folder(name)) and kind in ("any", kind_of(folder)))


def find_bundle(folder_or_name: str | Path, *, kind: Published | Literal["any"] = "bundle") -> Path:
    """Return the bundle folder for a path or a published name; the name wins, `./name` means the folder.

    Raises:
        FolderError: neither a folder nor a published name.
    """
    is_name = isinstance(folder_or_name, str) and _NAME.fullmatch(folder_or_name)
    if is_name and (folder := _folder(str(folder_or_name))):
        return folder
    if not Path(folder_or_name).is_dir():
        names = ", ".join(published_names(kind)) or "none"
        what = {"bundle": "student", "any": "bundle"}.get(kind, kind)
        if folder_or_name in PACKAGES:
            raise FolderError(
                f"{folder_or_name} is not installed; in a checkout: pip install ./models/{folder_or_name}"
            )
        raise FolderError(f"there is no folder {folder_or_name}, nor a published {what} of that name ({names})")
    return Path(folder_or_name)


def lasting_name(folder: Path, name: str) -> str:
    """Return what finds a bundle from another process or machine: its published name, else its absolute path."""
    if _NAME.fullmatch(name) and folder == _folder(name):
        return name
    return str(folder.resolve())


def reopen(kind: type[Any], source: str, fingerprint: str, device: str, num_threads: int) -> Any:
    """Open what was pickled again, as an object of its class.

    Raises:
        FolderError: its fingerprint is another here.
    """
    opened = kind.load(source, device=device, num_threads=num_threads)
    if (found := opened.fingerprint) != fingerprint:
        here = f"{source} is {found[:12]} here, the one pickled was {fingerprint[:12]}"
        raise FolderError(f"{here}; install the same version everywhere")
    return opened


def _folder(name: str) -> Path | None:
    """The folder of the bundle of this name; None if there is none."""
    installed, checkout, *packages = _homes()
    folders = (installed / name, checkout / name / "bundle", *(home / name for home in packages))
    return next((folder for folder in folders if (folder / MANIFEST_NAME).is_file()), None)


def _homes() -> tuple[Path, ...]:
    """Where bundles lie: in an installed wheel, in a source checkout, and in each data package."""
    package = Path(kdserve.__file__).parent
    spec = find_spec(_DATA_PACKAGES)
    return package / "bundles", package.parent / "models", *map(Path, (spec and spec.submodule_search_locations) or ())
