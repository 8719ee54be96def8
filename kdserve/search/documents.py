"""What goes into an index: documents with the user's own ids, a language and flat metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdserve.datatypes import Scalar
from kdserve.errors import DataError

Id = str | int
MAX_INT = 2**63 - 1
OWN_NAMES = ("id", "text", "lang", "language")
"""Names that a document has itself, so metadata cannot use them. In filters, lang and language are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text with what belongs to it. Without an `id` the index gives it the next number of its counter.

    Raises:
        DataError: an empty text, a text that is no valid Unicode, or an id or metadata that an index cannot keep.
    """

    text: str
    id: Id | None = None
    language: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DataError(f"document {self.id!r} has {type(self.text).__name__} for a text; give it a str")
        if not self.text.strip():
            raise DataError(f"document {self.id!r} has an empty text; drop it or give it one")
        if self.id is not None and (isinstance(self.id, bool) or not isinstance(self.id, str | int)):
            raise DataError(f"id {self.id!r} is {type(self.id).__name__}; use a str or an int")
        if taken := [name for name in OWN_NAMES if name in self.metadata]:
            raise DataError(f"document {self.id!r} has metadata named {taken[0]!r}; give it as the document's own")
        for name, value in {"id": self.id, "language": self.language, "text": self.text, **self.metadata}.items():
            _require_keepable(self.id, name, value)


def number_documents(documents: Sequence[Document], next_id: int) -> tuple[list[Document], int]:
    """Give documents without an id the next numbers; the counter also passes every number that a user chose."""
    numbered = []
    for document in documents:
        if document.id is None:
            document = replace(document, id=next_id)
        if isinstance(document.id, int):
            next_id = max(next_id, document.id + 1)
        numbered.append(document)
    return numbered, next_id


def _require_keepable(document_id: Id | None, name: str, value: object) -> None:
    where = f"document {document_id!r}, field {name!r}"
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: a metadata name must be a str that is not empty")
    if isinstance(value, str):
        try:
            (name + value).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where} is no valid Unicode ({error.reason}); decode its bytes again") from error
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{where} is {value}; use a finite number or leave the field out")
    elif isinstance(value, int):
        if not -MAX_INT <= value <= MAX_INT:
            raise DataError(f"{where} is {value}, beyond 64 bits; keep it as a str")
    elif value is not None:
        raise DataError(f"{where} is {type(value).__name__}; metadata is flat: str, int, float, bool or null")
