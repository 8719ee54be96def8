"""Types of the fields of documents, and whether a filter asks for something that can be there."""

from __future__ import annotations

from collections.abc import Sequence

from kdserve.errors import DataError
from kdserve.search.filters.expression import LANGUAGE, Compare, Condition, Contains, Leaf, OneOf, Value, leaves_of
from kdserve.search.filters.sql import column_of
from kdserve.search.index.document_file import KINDS, Kind
from kdserve.search.index.segment import Segment

HINTS = {
    ("text", "number"): 'index it as numbers, or compare it with a text in quotes, as in "2000"',
    ("number", "text"): "compare it with a number, without quotes",
    ("list", "text"): 'a list is asked with: "a text" in {name}',
    ("list", "number"): "a list is asked with: 7 in {name}",
}


def field_kinds(segments: Sequence[Segment]) -> dict[str, str]:
    """Types of each metadata field, by its name: "text", "number", "list", or several of them."""
    names = sorted(set().union(*(segment.stored.fields for segment in segments)))
    return {name: " and ".join(sorted(_kinds(name, segments), reverse=True)) for name in names}


def require_fields(condition: Condition, segments: Sequence[Segment]) -> None:
    """Refuse a filter over a field that no document has, or over values of a kind that no document has in it.

    Raises:
        DataError: which, and what there is instead.
    """
    for leaf in leaves_of(condition) if segments else ():
        if all(column_of(leaf.name, segment.stored.fields) == "NULL" for segment in segments):
            there = ", ".join(["id", "language", *field_kinds(segments)])
            raise DataError(f"no document has a field {leaf.name!r}; there are: {there}")
        asked = _asked(leaf)
        if asked and not _holds(leaf.name, asked, segments) and (kinds := _kinds(leaf.name, segments)):
            wanted, held = min(asked), min(kinds)
            hint = HINTS.get((held, wanted), "ask for what it holds").format(name=leaf.name)
            raise DataError(
                f"the field {leaf.name!r} holds {' and '.join(sorted(kinds))} everywhere, never a {wanted}; {hint}"
            )


def _asked(leaf: Leaf) -> set[Kind]:
    """The kinds of values of which one must be there for a comparison to hold anywhere; none if it needs none."""
    values: tuple[Value, ...] = ()
    if isinstance(leaf, Contains):
        return set() if leaf.negated else {"list"}
    if isinstance(leaf, OneOf) and not leaf.negated:
        values = leaf.values
    elif isinstance(leaf, Compare) and leaf.sign != "!=":
        values = (leaf.value,)
    return {"text" if isinstance(value, str) else "number" for value in values}


def _kinds(name: str, segments: Sequence[Segment]) -> set[Kind]:
    return {kind for kind in KINDS if _holds(name, {kind}, segments)}


def _holds(name: str, kinds: set[Kind], segments: Sequence[Segment]) -> bool:
    """Whether a field holds any value of one of the kinds, in any segment."""
    if name == LANGUAGE:
        return "text" in kinds
    columns = [(segment.stored, column_of(name, segment.stored.fields)) for segment in segments]
    return any(rows.holds(column, kind) for kind in sorted(kinds) for rows, column in columns if column != "NULL")
