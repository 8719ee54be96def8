"""Name the language of documents that do not say it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from kdserve.runtime.classifier import LEAST_PROBABILITY, Classifier
from kdserve.search.documents.chunks import chunks
from kdserve.search.documents.document import Document, NewMetadata

_CHUNK_DOCUMENTS = 1024
Some = TypeVar("Some", bound=Document | NewMetadata)


def name_languages(
    documents: Iterable[Some], classifier: Classifier, *, min_probability: float = LEAST_PROBABILITY
) -> Iterator[Some]:
    """Yield the documents in their order; those without a language get the likeliest one.

    Below `min_probability` a document stays without: a name or a number has no language. New metadata passes as it is.
    """
    for chunk in chunks(documents, _CHUNK_DOCUMENTS):
        unnamed = [(n, one) for n, one in enumerate(chunk) if isinstance(one, Document) and not one.language]
        for (n, one), found in zip(unnamed, classifier.classify([one.text for _, one in unnamed]), strict=True):
            if found.probability >= min_probability:
                chunk[n] = replace(one, language=found.label)
        yield from chunk
