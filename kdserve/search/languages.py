"""Name the language of documents that do not say it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from kdserve.runtime import Classifier
from kdserve.search.documents import Document

_CHUNK_DOCUMENTS = 1024


def name_languages(
    documents: Iterable[Document], classifier: Classifier, *, min_probability: float = 0.5
) -> Iterator[Document]:
    """Yield the documents in their order; those without a language get the likeliest one.

    Below `min_probability` a document stays without: a name or a number has no language.
    """
    iterator = iter(documents)
    while chunk := list(islice(iterator, _CHUNK_DOCUMENTS)):
        unnamed = [place for place, document in enumerate(chunk) if not document.language]
        for place, found in zip(unnamed, classifier.classify([chunk[place].text for place in unnamed]), strict=True):
            if found.probability >= min_probability:
                chunk[place] = replace(chunk[place], language=found.label)
        yield from chunk
