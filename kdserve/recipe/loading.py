"""Read a recipe and what is set on the command line, strictly, with the recipe that it builds on."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdserve.errors import RecipeError
from kdserve.recipe.recipe import Recipe
from kdserve.recipe.translation import SequenceRecipe
from kdserve.toml import apply_override, build, merge, read_toml

_HOME = re.compile(r"~[^/\0]*(/|$)")


def load_recipe(path: Path, *, overrides: Sequence[str] = ()) -> Recipe | SequenceRecipe:
    """Read a recipe, one of a student that writes where it has a `task`.

    `key=value` overrides are applied, whose values are TOML (bare words are taken as strings).
    A recipe may name another one, `base`, beside it: what it does not say itself is taken from there.
    Values that begin with `~/` or `~user/` are paths in that user's home folder.

    Raises:
        RecipeError: the file is missing or no TOML, a key or value does not fit, or there is no such user.
    """
    path = Path(path)
    record = _read(path)
    for override in overrides:
        apply_override(record, override)
    _leave_out(record)
    record = _expand_homes(record)
    recipe: Recipe | SequenceRecipe = build(SequenceRecipe if "task" in record else Recipe, record, where=str(path))
    return dataclasses.replace(recipe, data_dir=str(path.parent / recipe.data_dir))


def _read(path: Path, *, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    record = read_toml(path, "recipe")
    if "base" not in record:
        return record
    base, above = _expand_homes(record.pop("base"), key="base"), (*above, path.resolve())
    if not isinstance(base, str) or (path.parent / base).resolve() in above:
        raise RecipeError(f"{path}: base is {base!r}; name another recipe")
    return merge(_read(path.parent / base, above=above), record)


def _leave_out(record: dict[str, Any]) -> None:
    """Leave out tables that a recipe switches off, as its base may have them: `width = 0`, `mode = ""`."""
    if record.get("classifier") == {"mode": ""}:
        del record["classifier"]
    student = record.get("student")
    body = student.get("body") if isinstance(student, dict) else None
    if isinstance(student, dict) and isinstance(body, dict) and body.get("width") == 0:
        record["student"] = {key: value for key, value in student.items() if key != "body"}


def _expand_homes(value: Any, *, key: str = "") -> Any:
    """Return a record, or a value of it, with the folders that `~` and `~user` stand for."""
    if isinstance(value, dict):
        return {name: _expand_homes(one, key=f"{key}.{name}" if key else name) for name, one in value.items()}
    if isinstance(value, list):
        return [_expand_homes(one, key=f"{key}[{number}]") for number, one in enumerate(value)]
    if not isinstance(value, str) or not _HOME.match(value):
        return value
    try:
        return str(Path(value).expanduser())
    except RuntimeError as error:
        raise RecipeError(f"{key} is {value}, but there is no home folder of that user; write it whole") from error
