"""The JSON files of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdserve.errors import FolderError


def read_json(path: Path) -> Any:
    """Parse a JSON file of a folder.

    Raises:
        FolderError: missing or no JSON.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # half a character, written as \ud800, is found here
    except OSError as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else error.strerror
        raise FolderError(f"{path} cannot be read ({reason}); make or download the folder again") from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path} is no JSON ({error}); make or download the folder again") from error
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that holds an object. Raises as `read_json`."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise FolderError(f"{path} holds no JSON object; make or download the folder again")
    return value
