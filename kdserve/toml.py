"""From TOML or JSON to typed dataclasses, strictly: an error names the dotted key and the file."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kdserve.errors import RecipeError


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Parse a file of TOML; errors say `what` it should be.

    Raises:
        RecipeError: it is missing, cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise RecipeError(f"there is no {what} {path}; check the path") from error
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror}); name a {what} in TOML") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, or a number of thousands of digits
        raise RecipeError(f"{path} is no readable TOML: {error}") from error


def apply_override(record: dict[str, Any], override: str) -> None:
    """Put a `dotted.key=value` into a record; the value is TOML, a bare word is taken as a string."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise RecipeError(f"--set {override} has no value; write --set key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or a deep nest
        raise RecipeError(f"--set {dotted} is too long or nested too deep; write a plain value") from error
    *parents, last = dotted.split(".")
    table = record
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {dotted}: {parent} is no table; only single values can be set")
    table[last] = value


def merge(base: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `record`: tables are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in record.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def build(kind: Any, record: Mapping[str, Any], *, where: str, key: str = "") -> Any:
    """Make a dataclass of a record, tables inside it likewise.

    Raises:
        RecipeError: unknown or missing key, wrong type, or a value not allowed; names the dotted key and `where`.
    """
    hints = get_type_hints(kind)
    for name in record:
        if name not in hints:
            close = difflib.get_close_matches(name, hints, n=1)
            raise RecipeError(f"{where}: unknown key {key}{name}" + (f"; did you mean {close[0]}?" if close else ""))
    values = {name: _convert(hints[name], value, where=where, key=key + name) for name, value in record.items()}
    for entry in dataclasses.fields(kind):
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and entry.name not in values:
            raise RecipeError(f"{where}: the key {key}{entry.name} is missing")
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"{where}: {key}{error}") from error


def require(section: object, **ranges: str) -> None:
    """Refuse numbers of a dataclass that lie outside their range, like `steps="[0, inf)"`; in lists and tables, each.

    Raises:
        ValueError: names key, value and range.
    """
    for key, allowed in ranges.items():
        value = getattr(section, key)
        many = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
        low, high = map(float, allowed[1:-1].split(", "))
        for number in many:
            above = number > low if allowed[0] == "(" else number >= low
            below = number < high if allowed[-1] == ")" else number <= high
            if not (above and below):
                raise ValueError(f"{key} is {number!r}; it must lie in {allowed}")


Rule = tuple[str, bool, str]
"""A key, whether its rule holds, and what the rule says."""


def require_rules(*rules: Rule) -> None:
    """Refuse a section, or a recipe, at the first rule that does not hold.

    Raises:
        ValueError: names key and rule.
    """
    for key, holds, rule in rules:
        if not holds:
            raise ValueError(f"{key} {rule}")


def _convert(hint: Any, value: Any, *, where: str, key: str) -> Any:
    if hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        *others, last = (argument for argument in arguments if argument is not NoneType)
        for other in others:
            with contextlib.suppress(RecipeError):
                return _convert(other, value, where=where, key=key)
        return _convert(last, value, where=where, key=key)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: {key} must be a table")
        return build(hint, value, where=where, key=f"{key}.")
    if origin is Literal:
        if not any(value == one and type(value) is type(one) for one in arguments):
            choices = ", ".join(map(str, arguments))
            raise RecipeError(f"{where}: {key} is {value!r}; choose one of {choices}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where}: {key} must be a list")
        return tuple(_convert(arguments[0], item, where=where, key=f"{key}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise RecipeError(f"{where}: {key} must be a table")
        return {name: _convert(arguments[1], item, where=where, key=f"{key}.{name}") for name, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError as error:
            raise RecipeError(f"{where}: {key} is too large; write a number below 1e308") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where}: {key} is {value}; it must be a finite number")
    if isinstance(value, str) and "\0" in value:
        raise RecipeError(f"{where}: {key} is {value!r}; it must hold no NUL")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where}: {key} is {value!r}, which is no {hint.__name__}")
    return value
