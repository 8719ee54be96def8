"""Documents on disk: one SQLite file for each segment, with ids, texts, metadata and columns for filters.

SQLite is in Python's standard library, keeps memory flat whatever the size, compares values exactly, and its
transactions are the checkpoints of a long build. A finished file never changes: it is opened immutable.

    documents  doc (0, 1, …), id, text, language, metadata (JSON), first_row, num_rows
    fields     doc, id, language, and one column for each metadata name, without affinity: 1 is not '1'; a list is a
               blob of JSON
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Cell, Scalar
from kdserve.disk import read_error
from kdserve.errors import DataError, FolderError
from kdserve.search.backends.vectors import Rows
from kdserve.search.documents.chunks import chunks
from kdserve.search.documents.document import Document, Id
from kdserve.search.filters.sql import field_column, field_name
from kdserve.search.index import lexical

SCHEMA = """
CREATE TABLE documents (doc INTEGER PRIMARY KEY, id NOT NULL UNIQUE, text TEXT NOT NULL, language TEXT,
                        metadata TEXT, first_row INTEGER NOT NULL, num_rows INTEGER NOT NULL);
CREATE TABLE fields (doc INTEGER PRIMARY KEY, id, language);
CREATE TABLE state (name TEXT PRIMARY KEY, value)
"""
Kind = Literal["text", "number", "list"]
KINDS: Mapping[Kind, str] = {"text": "'text'", "number": "'integer', 'real'", "list": "'blob'"}
"""Types of fields in SQLite."""
FIXED_COLUMNS = frozenset({"doc", "id", "language"})
"""Columns of `fields` that every file has; SQLite takes 2,000 in all."""
MAX_FIELDS = 1000
FETCH = 500
"""Documents asked for in one statement; SQLite takes at most 999 parameters in its older builds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredDocument:
    """A document as it stands in a segment; `num_rows` is the number of its passages."""

    doc: int
    id: Id
    text: str
    language: str | None
    metadata: Mapping[str, Cell]
    first_row: int
    num_rows: int


class DocumentWriter:
    """Appends documents to a new or unfinished file, with their words if `lexical`. Nothing counts before `checkpoint`.

    Raises:
        DataError: an id that the file has already, or more than 1,000 metadata names.
        OSError: the disk is full or cannot be written.
    """

    def __init__(self, path: Path, *, lexical: bool) -> None:
        self.path, self.lexical = path, lexical
        with _as_os_error(path):
            self._database = sqlite3.connect(path, isolation_level=None)
            if not self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._create()
            self._columns = {row[1] for row in self._database.execute("PRAGMA table_info(fields)")}
            counts = self._database.execute("SELECT count(*), coalesce(sum(num_rows), 0) FROM documents").fetchone()
        self.num_documents: int = counts[0]
        self.num_rows: int = counts[1]

    def append(self, documents: Sequence[Document], num_passages: Sequence[int]) -> None:
        """Add documents; the n-th has `num_passages[n]` rows."""
        with _as_os_error(self.path):
            if not self._database.in_transaction:
                self._database.execute("BEGIN")
            for document, passages in zip(documents, num_passages, strict=True):
                self._insert(document, passages)

    def checkpoint(self, state: Mapping[str, Scalar] | None = None) -> None:
        """Make everything so far durable, together with named values that `state` gives back after a crash."""
        with _as_os_error(self.path):
            if not self._database.in_transaction:
                self._database.execute("BEGIN")
            self._database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", (state or {}).items())
            self._database.execute("COMMIT")

    def state(self) -> dict[str, Scalar]:
        """The named values of the last checkpoint."""
        with _as_os_error(self.path):
            return dict(self._database.execute("SELECT name, value FROM state"))

    def close(self) -> None:
        """Close the file; what came after the last checkpoint is dropped."""
        self._database.close()

    def _create(self) -> None:
        self._database.execute("BEGIN")
        for statement in SCHEMA.split(";"):
            self._database.execute(statement)
        if self.lexical:
            lexical.create(self._database)
        self._database.execute("COMMIT")

    def _insert(self, document: Document, num_rows: int) -> None:
        metadata = json.dumps(dict(document.metadata), ensure_ascii=False) if document.metadata else None
        doc = self.num_documents
        row = (doc, document.id, document.text, document.language, metadata, self.num_rows, num_rows)
        try:
            self._database.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError as error:
            raise DataError(f"id {document.id!r} occurs twice; ids must be unique, fix the texts") from error
        values = {name: _as_value(value) for name, value in document.metadata.items() if value is not None}
        names = ["doc", "id", "language", *(self._column(name) for name in values)]
        marks = ", ".join("?" * len(names))
        statement = f"INSERT INTO fields ({', '.join(names)}) VALUES ({marks})"
        self._database.execute(statement, (doc, document.id, document.language, *values.values()))
        if self.lexical:
            lexical.insert(self._database, doc, document.text)
        self.num_documents += 1
        self.num_rows += num_rows

    def _column(self, name: str) -> str:
        column = field_column(name)
        if column not in self._columns:
            if len(self._columns - FIXED_COLUMNS) == MAX_FIELDS:
                raise DataError(f"metadata has more than {MAX_FIELDS} different names; keep fewer fields")
            self._database.execute(f"ALTER TABLE fields ADD COLUMN {column}")
            self._columns.add(column)
        return column


class DocumentFile:
    """The documents of one finished segment, read-only. The file is closed as soon as nothing refers to this.

    Raises, everywhere:
        FolderError: the file cannot be read, or holds what no `DocumentWriter` writes.
    """

    def __init__(self, path: Path, *, num_documents: int, num_rows: int) -> None:
        self.path, self._num_documents, self._num_rows = path, num_documents, num_rows
        uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro&immutable=1"
        with self._reading():
            self._database = sqlite3.connect(uri, uri=True, check_same_thread=False)
            weakref.finalize(self, self._database.close)  # its cache of statements is a cycle, so it would linger
            self._database.execute("PRAGMA trusted_schema = OFF")
            tables = {row[0] for row in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            columns = {row[1] for row in self._database.execute("PRAGMA table_info(fields)")}
            if {"documents", "fields"} - tables or FIXED_COLUMNS - columns:
                raise self._damaged("it has not the tables of documents and fields")
            self.fields = frozenset(field_name(column) for column in columns - FIXED_COLUMNS)

    def field_names(self) -> list[str]:
        """The metadata names that filters can ask for."""
        return sorted(self.fields)

    def state(self) -> dict[str, Scalar]:
        """The named values of the last checkpoint."""
        with self._reading():
            return dict(self._database.execute("SELECT name, value FROM state"))

    def holds(self, column: str, kind: Kind) -> bool:
        """Whether a column of the fields holds any value of a kind."""
        with self._reading():
            statement = f"SELECT 1 FROM fields WHERE typeof({column}) IN ({KINDS[kind]}) LIMIT 1"
            return self._database.execute(statement).fetchone() is not None

    def documents(self, docs: Sequence[int]) -> dict[int, StoredDocument]:
        """The documents with the given numbers."""
        found: dict[int, StoredDocument] = {}
        for some in chunks(docs, FETCH):
            where = f"doc IN ({', '.join('?' * len(some))})"
            found.update((document.doc, document) for document in self._select(where, some))
        if len(found) < len(set(docs)):
            raise self._damaged("documents are missing")
        return found

    def find(self, ids: Sequence[Id]) -> dict[Id, StoredDocument]:
        """The documents with the given ids; the others are left out."""
        found: dict[Id, StoredDocument] = {}
        for some in chunks(ids, FETCH):
            where = f"id IN ({', '.join('?' * len(some))})"
            found.update((document.id, document) for document in self._select(where, some))
        return found

    def texts_among(self, texts: Sequence[str]) -> set[str]:
        """Which of some texts documents have; this reads all."""
        found: set[str] = set()
        for some in chunks(texts, FETCH):
            statement = f"SELECT DISTINCT text FROM documents WHERE text IN ({', '.join('?' * len(some))})"
            with self._reading():
                found.update(row[0] for row in self._database.execute(statement, some))
        return found

    def scan(self) -> Iterator[StoredDocument]:
        """All documents in order, without holding them."""
        return self._select("1 ORDER BY doc", ())

    def select(self, condition: str, parameters: Sequence[Scalar]) -> Rows:
        """The numbers of the documents that fulfil an SQL condition over the table of fields."""
        statement = f"SELECT doc FROM fields WHERE {condition} ORDER BY doc"
        with self._reading():
            docs = np.fromiter(chain.from_iterable(self._database.execute(statement, parameters)), np.int64)
            if len(docs) and not 0 <= docs[0] <= docs[-1] < self._num_documents:
                raise self._damaged("its fields are of other documents")
            return docs

    def ranked(self, query: str) -> Iterator[tuple[int, float]]:
        """Documents that share a word with the query and their BM25 score, best first."""
        with self._reading():
            for doc, score in lexical.ranked(self._database, query):
                if not 0 <= doc < self._num_documents:
                    raise self._damaged("its words are of other documents")
                yield doc, score

    def language_codes(self, known: dict[str | None, int]) -> npt.NDArray[np.int32]:
        """The number of each document's language in `known`, which grows by those that are not in it."""
        with self._reading():
            languages = self._database.execute("SELECT language FROM fields ORDER BY doc")
            codes = np.fromiter((known.setdefault(language, len(known)) for (language,) in languages), np.int32)
            if len(codes) != self._num_documents:
                raise self._damaged("its fields are of other documents")
            return codes

    def _select(self, where: str, parameters: Iterable[Id]) -> Iterator[StoredDocument]:
        statement = f"SELECT doc, id, text, language, metadata, first_row, num_rows FROM documents WHERE {where}"
        with self._reading():
            for row in self._database.execute(statement, tuple(parameters)):
                yield self._stored(*row)

    def _stored(
        self, doc: object, id_: object, text: object, language: object, metadata: object, first: object, rows: object
    ) -> StoredDocument:
        kept = json.loads(metadata) if isinstance(metadata, str) else {}
        if not (
            isinstance(doc, int)
            and isinstance(id_, str | int)
            and isinstance(text, str)
            and (language is None or isinstance(language, str))
            and isinstance(kept, dict)
            and isinstance(first, int)
            and isinstance(rows, int)
            and 0 <= doc < self._num_documents
            and 0 <= first < first + rows <= self._num_rows
        ):
            raise self._damaged(f"document {doc!r} has not what a document has")
        return StoredDocument(
            doc=doc, id=id_, text=text, language=language, metadata=kept, first_row=first, num_rows=rows
        )

    def _damaged(self, what: str) -> FolderError:
        return FolderError(f"{self.path} is damaged: {what}; restore the index or build it again")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, OverflowError, TypeError, RecursionError) as error:
            try:
                self.path.open("rb").close()  # SQLite does not say why a file does not open
            except OSError as reason:
                raise read_error(self.path, reason) from error
            raise FolderError(f"{self.path} cannot be read ({error}); restore the index or build it again") from error


def _as_value(cell: Cell) -> Scalar | bytes:
    """A cell as the table of fields holds it."""
    return json.dumps(list(cell), ensure_ascii=False).encode() if isinstance(cell, list | tuple) else cell  # type: ignore[return-value]


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """SQLite hides errno; callers of a writer expect the OSError that any other file gives."""
    try:
        yield
    except sqlite3.DatabaseError as error:  # what cannot be written, and an unfinished file that is damaged
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error
        raise OSError(str(error)) from error
