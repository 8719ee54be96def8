"""Where an index's documents come from, and who names their languages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdserve.search import Document, Format, Source


def open_source(texts: Path, format: Format | None, text_column: str, id_column: str, numbers: str) -> Source:
    """Describe a file, a folder or stdin, as the options say."""
    from kdserve.search import Columns, Source, format_of

    columns = Columns(text=text_column, id=id_column, numbers=frozenset(filter(None, numbers.split(","))))
    return Source(path=texts, format=format or format_of(texts), columns=columns)


def read_documents(source: Source, languages_by: str) -> Iterator[Document]:
    """Read a source's documents; the classifier `languages_by`, if any, names the language of those without one."""
    from kdserve.runtime import Classifier
    from kdserve.search import name_languages

    documents = source.read()
    return name_languages(documents, Classifier.load(languages_by)) if languages_by else documents
