"""Records of tables as documents: which field is the text, the id, the language; the others are metadata."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdserve.digits import parse_number
from kdserve.errors import DataError
from kdserve.lines import show
from kdserve.search.documents.document import Document, NewMetadata
from kdserve.search.documents.tables import Record

LANGUAGE_NAMES = ("lang", "language")
ID, TEXT, METADATA = "id", "text", "metadata"


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which column of a table is what. The cells of `numbers` are read as numbers, all others as they are.

    `fields` are those to keep beside text, id and language; None keeps all.
    """

    text: str = TEXT
    id: str = ID
    numbers: frozenset[str] = frozenset()
    fields: frozenset[str] | None = None

    def kept(self, metadata: Record) -> Record:
        """The fields of a document that are to be kept."""
        return {name: value for name, value in metadata.items() if self.fields is None or name in self.fields}


def documents_from(
    path: Path, records: Iterable[tuple[int, Record]], columns: Columns, *, update: bool
) -> Iterator[Document | NewMetadata]:
    """Turn numbered records into documents; with `update`, those without a text into new metadata for an id.

    Raises:
        DataError: what is wrong with a record, and where; a column of numbers, or to keep, that no record has.
    """
    unseen = set(columns.numbers | (columns.fields or frozenset()))
    number = 0
    for number, record in records:
        unseen -= record.keys()
        try:
            yield _document(record, columns, update=update)
        except DataError as error:
            raise DataError(f"{show(path)} line {number}: {error}") from error
        if isinstance(nested := record.get(METADATA), dict):
            unseen -= nested.keys()
    if unseen and number:
        name = min(unseen)
        wanted = "to read as numbers; check --numbers" if name in columns.numbers else "to keep; check --fields"
        raise DataError(f"{show(path)} has no column {name!r} {wanted}")


def _document(given: Record, columns: Columns, *, update: bool) -> Document | NewMetadata:
    record = dict(given)
    nested = record.pop(METADATA, None)
    if not isinstance(nested, dict):
        record |= {} if nested is None else {METADATA: nested}
        nested = {}
    if both := sorted(record.keys() & nested.keys()):
        raise DataError(f"{both[0]!r} is there twice, in {METADATA!r} and beside it; leave one out")
    for name in columns.numbers:
        for place in (record, nested):
            if name in place:
                place[name] = _number(name, place[name])
    if columns.id != ID and columns.id not in record:
        raise DataError(f"there is no {columns.id!r} among {_names(record, 'id')}")
    only_metadata = update and record.get(columns.text) is None
    if not only_metadata and columns.text not in record:
        raise DataError(f"there is no {columns.text!r} among {_names(record, 'text')}")
    text, id_ = record.pop(columns.text, None), record.pop(columns.id, None)
    languages = [record.pop(name, None) or None for name in LANGUAGE_NAMES]
    if None not in languages and languages[0] != languages[1]:
        raise DataError(f"lang is {languages[0]!r} and language is {languages[1]!r}, which are the same; leave one out")
    language, metadata = languages[0] or languages[1], columns.kept({**record, **nested})
    if only_metadata:
        return NewMetadata(id=id_, language=language, metadata=metadata)
    return Document(text=text, id=id_, language=language, metadata=metadata)


def _names(record: Record, what: str) -> str:
    told = ", ".join(map(repr, record)) or "no fields"
    is_one_cell = len(record) == 1 and {";", ",", "\t", "|"} & set(*record)
    mend = "cells have commas between them in a .csv, tabs in a .tsv" if is_one_cell else f"name one: --{what}-column"
    return f"{told}; {mend}"


def _number(name: str, cell: object) -> int | float | None:
    """A number as everybody writes it."""
    if cell is None or isinstance(cell, int | float):
        return cell
    text = cell.strip() if isinstance(cell, str) else ""
    if isinstance(cell, str) and (not text or text.lower() == "nan"):
        return None
    if (number := parse_number(text)) is not None:
        return number
    raise DataError(f"{name!r} is {cell!r}, not a number; fix it, or leave {name!r} out of the numbers")
