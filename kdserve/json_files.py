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
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else error.strerror
        raise FolderError(f"{path} cannot be read ({reason}); make or download the folder again") from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path} is no JSON ({error}); make or download the folder again") from error


def parse_json(text: str) -> Any:
    """Parse JSON whose texts are valid Unicode.

    Raises:
        ValueError: it is no JSON, or holds half a character, written as \\ud800.
        RecursionError: it nests too deeply.
    """
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that holds an object. Raises as `read_json`."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise FolderError(f"{path} holds no JSON object; make or download the folder again")
    return value
