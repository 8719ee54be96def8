"""A filter as SQL over the table of fields."""

from __future__ import annotations

from collections.abc import Mapping, Set

from kdserve.search.filters import ID, LANGUAGE, Compare, Condition, Junction, Missing, Not, OneOf, Sign, Value

SIGNS: Mapping[Sign, str] = {"==": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def field_column(name: str) -> str:
    """The column of a metadata name. SQLite ignores the case of column names, metadata does not: so hex."""
    return "f" + name.encode().hex()


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
    column = _column(condition.name, names)
    if isinstance(condition, Missing):
        return f"({column} IS NULL)"
    if isinstance(condition, OneOf):
        parameters += condition.values
        marks = ", ".join("?" * len(condition.values))
        return f"({column} IS NOT NULL AND {column} {'NOT ' if condition.negated else ''}IN ({marks}))"
    return _comparison(column, condition, parameters)


def _comparison(column: str, condition: Compare, parameters: list[Value]) -> str:
    parameters.append(condition.value)
    comparison = f"{column} {SIGNS[condition.sign]} ?"
    if condition.sign in ("==", "!="):
        return f"({column} IS NOT NULL AND {comparison})"
    kinds = "('text')" if isinstance(condition.value, str) else "('integer', 'real')"
    return f"(typeof({column}) IN {kinds} AND {comparison})"


def _column(name: str, names: Set[str]) -> str:
    if name in (ID, LANGUAGE):
        return name
    return field_column(name) if name in names else "NULL"
