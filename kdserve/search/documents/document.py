"""Documents that go into an index, with the user's own ids, a language and flat metadata."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdserve.datatypes import Cell, Scalar
from kdserve.errors import DataError
from kdserve.lines import MAX_TEXT_BYTES
from kdserve.runtime.normalizer import is_blank

Id = str | int
MAX_INT = 2**63 - 1
OWN_NAMES = ("id", "text", "lang", "language")
"""Names that a document has itself, so metadata cannot use them. In filters, lang and language are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text with what belongs to it. Without an `id` the index gives it the next number of its counter.

    The names of its metadata are composed (Unicode NFC), so that they are found however they are typed.

    Raises:
        DataError: an empty or too long text, one that is no valid Unicode, or an id or metadata that an index cannot
            keep.
    """

    text: str
    id: Id | None = None
    language: str | None = None
    metadata: Mapping[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DataError(f"document {self.id!r} has {type(self.text).__name__} for a text; give it a str")
        if is_blank(self.text):
            raise DataError(f"document {self.id!r} has an empty text; drop it or give it one")
        if len(self.text) > MAX_TEXT_BYTES:
            limit = f"{MAX_TEXT_BYTES // 1_000_000} million"
            raise DataError(f"document {self.id!r} has more than {limit} characters, the limit of a text; cut it")
        _require_keepable(self.id, "text", self.text)
        if self.id is not None:
            require_id(self.id)
        object.__setattr__(self, "metadata", _checked(self.id, self.language, self.metadata))


@dataclass(frozen=True, kw_only=True, slots=True)
class NewMetadata:
    """Changes to the document with an `id`: fields that are None are taken away, others not named here stay.

    Raises:
        DataError: no id, or metadata that an index cannot keep.
    """

    id: Id
    language: str | None = None
    metadata: Mapping[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.id is None:
            raise DataError("there is neither a text nor an id; give a text, or the id whose metadata changes")
        require_id(self.id)
        object.__setattr__(self, "metadata", _checked(self.id, self.language, self.metadata))


def number_documents(documents: Sequence[Document], next_id: int) -> tuple[list[Document], int]:
    """Give documents without an id the next numbers; the counter also passes every number that a user chose.

    Raises:
        DataError: there is no number left, as a user chose one of the last.
    """
    numbered = []
    for document in documents:
        if document.id is None:
            if next_id == MAX_INT:
                raise DataError(f"the numbers of documents have come to {MAX_INT}, the last; give the others ids")
            document = replace(document, id=next_id)
        if isinstance(document.id, int):
            next_id = max(next_id, min(document.id + 1, MAX_INT))
        numbered.append(document)
    return numbered, next_id


def require_id(id_: object) -> None:
    """Refuse what cannot be an id.

    Raises:
        DataError: neither a str nor an int, no valid Unicode, or beyond 64 bits.
    """
    if isinstance(id_, bool) or not isinstance(id_, str | int):
        raise DataError(f"id {id_!r} is {type(id_).__name__}; use a str or an int")
    _require_keepable(id_, "id", id_)


def ids_as_typed(typed: Iterable[str]) -> list[list[Id]]:
    """Ids that each text on a command line may mean: itself, and the int of which it is the canonical form.

    Raises:
        DataError: a text that is no valid Unicode.
    """
    typed = list(typed)
    for text in typed:
        require_id(text)
    return [[text, int(text)] if _is_canonical(text) else [text] for text in typed]


def _is_canonical(text: str) -> bool:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        return False
    return str(int(text)) == text and -MAX_INT <= int(text) <= MAX_INT


def _checked(document_id: Id | None, language: object, metadata: Mapping[str, Cell]) -> Mapping[str, Cell]:
    """The metadata under composed names, or a DataError."""
    if not (language is None or isinstance(language, str)):
        raise DataError(f"document {document_id!r} has the language {language!r}; give a str")
    _require_keepable(document_id, "language", language)
    if not isinstance(metadata, Mapping):
        kind = type(metadata).__name__
        raise DataError(f"document {document_id!r} has {kind} for metadata; give a mapping of names to values")
    composed: dict[str, Cell] = {}
    for name, value in metadata.items():
        if not isinstance(name, str) or not name:
            raise DataError(
                f"document {document_id!r}, field {name!r}: a metadata name must be a str that is not empty"
            )
        key = unicodedata.normalize("NFC", name)
        _require_keepable(document_id, key, key)
        if key in OWN_NAMES:
            raise DataError(f"document {document_id!r} has metadata named {key!r}; give it as the document's own")
        if key in composed:
            raise DataError(f"document {document_id!r} has two fields named {key!r}; rename one or leave it out")
        composed[key] = value
        items: Sequence[Scalar] = value if isinstance(value, list | tuple) else [value]  # type: ignore[list-item]
        for item in items:
            _require_keepable(document_id, key, item)
    return composed


def _require_keepable(document_id: Id | None, name: str, value: Scalar) -> None:
    where = f"document {document_id!r}, field {name!r}"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where} is no valid Unicode ({error.reason}); decode its bytes again") from error
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{where} is {value}; use a finite number or leave the field out")
    elif isinstance(value, int):
        if not -MAX_INT <= value <= MAX_INT:
            raise DataError(f"{where} is {value}, beyond 64 bits; keep it as a str")
    elif value is not None:
        kind = type(value).__name__
        raise DataError(f"{where} is {kind}; metadata is flat: str, int, float, bool, null, or a list of these")
