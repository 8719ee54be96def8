"""Protocol of every retriever, wherever its documents are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from kdserve.datatypes import Embedder, Hit, Progress, no_progress
from kdserve.search.documents.document import Document, Id, NewMetadata


class RetrieverProtocol(Protocol):
    """Documents with the encoder that embeds them; errors are those that `Retriever` names."""

    encoder: Embedder

    def __len__(self) -> int:
        """The number of documents."""

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        where: str = "",
        min_score: float = -np.inf,
        per_language: int = 0,
        rerank: int | None = None,
    ) -> list[Hit]:
        """The `k` best documents for one query, best first; a blank query has none."""

    def search_batch(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        where: str = "",
        min_score: float = -np.inf,
        per_language: int = 0,
        rerank: int | None = None,
    ) -> list[list[Hit]]:
        """The `k` best documents for each query."""

    def texts_among(self, texts: Iterable[str]) -> set[str]:
        """Which of some texts documents have."""

    def add(self, documents: Iterable[Document], *, total: int = 0, progress: Progress = no_progress) -> None:
        """Add documents with new ids."""

    def update(
        self, documents: Iterable[Document | NewMetadata], *, total: int = 0, progress: Progress = no_progress
    ) -> None:
        """Put documents in the place of those with the same ids; the others are added. New metadata changes its fields
        of the document with its id.
        """

    def delete(self, ids: Sequence[Id]) -> None:
        """Delete the documents with these ids; if one is not there, nothing is deleted."""
