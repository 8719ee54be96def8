"""What a run keeps in its work folder for the next one, under the SHA-256 of all that it was made of.

A record is a small JSON file beside what it vouches for. It is written last and whole, with the sizes of those files:
what a kill or a full disk left half-made, and what was cut since, counts as never made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdserve.json_files import parse_json


def keep(path: Path, key: str, *, files: Sequence[Path] = (), **content: object) -> None:
    """Write a record of `content` and of files in its folder, as they are now; it appears whole or not at all."""
    sizes = {file.name: file.stat().st_size for file in files}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"key": key, "sizes": sizes, **content}), encoding="utf-8")
    partial.replace(path)


def kept(path: Path, key: str) -> Mapping[str, Any] | None:
    """Return a record; None where there is none under this key, or a file of its is not as it was."""
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        sizes = record["sizes"].items() if record["key"] == key else None
        whole = sizes is not None and all((path.parent / name).stat().st_size == size for name, size in sizes)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record if whole else None
