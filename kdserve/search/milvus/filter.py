"""A filter in Milvus's language."""

from __future__ import annotations

import json
from collections.abc import Mapping

from kdserve.errors import DataError
from kdserve.search.documents.document import Id
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
)

OPPOSITE: Mapping[Sign, Sign] = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def as_milvus(condition: Condition, *, negated: bool = False) -> str:
    """A filter in Milvus's language, or its negation.

    A comparison of unlike kinds is neither true nor false there, and neither is its `not`: so negations are carried to
    the comparisons, and each says for itself when it does not hold.
    """
    if isinstance(condition, Junction):
        word = condition.word if not negated else {"and": "or", "or": "and"}[condition.word]
        return f"({f' {word} '.join(as_milvus(part, negated=negated) for part in condition.conditions)})"
    if isinstance(condition, Not):
        return as_milvus(condition.condition, negated=not negated)
    field, there, absent = _field(condition.name)
    if isinstance(condition, Missing):
        return there if negated else absent
    if isinstance(condition, OneOf):
        values = [_literal(Compare(name=condition.name, sign="==", value=value)) for value in condition.values]
        equal = " or ".join(f"{field} == {value}" for value in values) or "start < 0"
        unequal = " and ".join(f"{field} != {value}" for value in values) or "start >= 0"
        body = equal if condition.negated == negated else unequal
    elif isinstance(condition, Contains):
        value = _literal(Compare(name=condition.name, sign="==", value=condition.value))
        body = f"json_contains({field}, {value})"
        body = f"not {body}" if condition.negated != negated else body
    else:
        body = _opposite(field, condition) if negated else f"{field} {condition.sign} {_literal(condition)}"
    return f"({absent} or ({body}))" if negated else f"({there} and ({body}))"


def _opposite(field: str, condition: Compare) -> str:
    """Comparison that holds of a field that is there when this one does not."""
    opposite = f"{field} {OPPOSITE[condition.sign]} {_literal(condition)}"
    if condition.sign in ("==", "!=") or condition.name == LANGUAGE:
        return opposite
    other_kind = f"{field} >= 0 or {field} < 0" if isinstance(condition.value, str) else f'{field} >= ""'
    return f"{opposite} or {other_kind}"


def _field(name: str) -> tuple[str, str, str]:
    """The field as Milvus writes it, and the conditions that it is there and that it is not."""
    if name == ID:
        return "document", "start >= 0", "start < 0"
    if name == LANGUAGE:
        return "language", "language is not null", "language is null"
    field = f"metadata[{json.dumps(name, ensure_ascii=False)}]"
    return field, f"(exists {field})", f"(not (exists {field}))"


def _literal(condition: Compare) -> str:
    """The value of a comparison as Milvus reads it.

    Raises:
        DataError: a control character, or an id that is compared by order: Milvus can do neither.
    """
    value = condition.value
    if condition.name == ID and not isinstance(value, float):
        if condition.sign not in ("==", "!="):
            raise DataError(f"Milvus compares ids only with == and !=, not {condition.sign}; filter by metadata")
        value = document_key(value)
    if isinstance(value, str) and not value.isprintable():
        raise DataError(f"Milvus has no way to write {value!r} in a filter; filter by something else")
    return json.dumps(value, ensure_ascii=False)


def document_key(id_: Id) -> str:
    """An id as Milvus keeps it: JSON tells 7 from "7"."""
    return json.dumps(id_, ensure_ascii=False)
