"""A filter as SQL over the table of fields."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Set

from kdserve.search.filters.expression import (
    ID,
    LANGUAGE,
    Compare,
    Condition,
    Contains,
    Junction,
    Missing,
    Not,
    OneOf,
    Sign,
    Value,
)

SIGNS: Mapping[Sign, str] = {"==": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def field_column(name: str) -> str:
    """The column of a metadata name. SQLite ignores the case of column names, metadata does not: so hex."""
    return "f" + name.encode().hex()


def field_name(column: str) -> str:
    """The metadata name of a column.

    Raises:
        ValueError: a column that `field_column` never gives.
    """
    name = bytes.fromhex(column[1:]).decode()
    if field_column(name) != column:
        raise ValueError(f"there is a column {column!r}")
    return name


def column_of(name: str, names: Set[str]) -> str:
    """The column that a filter's name means, among these metadata names; NULL where there is none.

    A name may have been written decomposed, by an older kdserve, and Python reads a bare name as NFKC: so the name as
    it is comes first, then one that is the same but for that.
    """
    if name in (ID, LANGUAGE):
        return name
    if name in names:
        return field_column(name)
    wanted = unicodedata.normalize("NFKC", name)
    return next((field_column(one) for one in sorted(names) if unicodedata.normalize("NFKC", one) == wanted), "NULL")


def as_sql(condition: Condition, names: Set[str]) -> tuple[str, list[Value]]:
    """The condition and its parameters, over a table that has these metadata names; the others are missing there."""
    parameters: list[Value] = []
    return _sql(condition, names, parameters), parameters


def _sql(condition: Condition, names: Set[str], parameters: list[Value]) -> str:
    """Every part is 0 or 1, never NULL, so that NOT means what it says."""
    if isinstance(condition, Junction):
        parts = [_sql(part, names, parameters) for part in condition.conditions]
        return f"({f' {condition.word.upper()} '.join(parts)})"
    if isinstance(condition, Not):
        return f"(NOT {_sql(condition.condition, names, parameters)})"
    column = column_of(condition.name, names)
    if isinstance(condition, Missing):
        return f"({column} IS NULL)"
    if isinstance(condition, OneOf):
        parameters += condition.values
        marks = ", ".join("?" * len(condition.values))
        return f"({column} IS NOT NULL AND {column} {'NOT ' if condition.negated else ''}IN ({marks}))"
    if isinstance(condition, Contains):
        parameters.append(condition.value)
        found = f"EXISTS (SELECT 1 FROM json_each(CAST({column} AS TEXT)) WHERE value = ?)"
        return f"(CASE WHEN typeof({column}) = 'blob' THEN {'NOT ' * condition.negated}{found} ELSE 0 END)"
    return _comparison(column, condition, parameters)


def _comparison(column: str, condition: Compare, parameters: list[Value]) -> str:
    parameters.append(condition.value)
    comparison = f"{column} {SIGNS[condition.sign]} ?"
    if condition.sign in ("==", "!="):
        return f"({column} IS NOT NULL AND {comparison})"
    kinds = "('text')" if isinstance(condition.value, str) else "('integer', 'real')"
    return f"(typeof({column}) IN {kinds} AND {comparison})"
