"""The same retriever over Milvus: a file of Milvus Lite on this machine, or a cluster by its address.

Milvus keeps vectors and finds neighbours, by inner product. Texts, metadata and filters mean the same as in an index
folder; a change that is interrupted may be half there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kdserve.datatypes import Embedder, Hit, Progress, no_progress, require_embedder, require_texts
from kdserve.errors import DataError, FolderError
from kdserve.search.backends.vectors import require_unit_rows
from kdserve.search.documents.document import Document, Id, NewMetadata
from kdserve.search.documents.embedding import embed_documents, first_passages
from kdserve.search.documents.passages import Splitting, choose_window
from kdserve.search.documents.shards import SharedDocuments
from kdserve.search.filters.expression import parse_filter
from kdserve.search.index.compatibility import require_compatible, source_of, teacher_of
from kdserve.search.milvus.collection import FIELDS, Collection, State
from kdserve.search.milvus.filter import as_milvus, document_key
from kdserve.search.milvus.shared import insert_shared
from kdserve.search.protocol import RetrieverProtocol
from kdserve.search.query.ranking import SearchOptions, asking, search_and_rerank, widen_until_enough

MAX_HITS = 16_384


class MilvusRetriever(RetrieverProtocol):
    """A Milvus collection with the encoder that it was built with; the methods are those of `Retriever`."""

    def __init__(self, collection: Collection, encoder: Embedder) -> None:
        self.collection, self.encoder = collection.name, encoder
        self._kept = collection

    @classmethod
    def build(
        cls,
        address: str,
        collection: str,
        documents: Iterable[Document] | SharedDocuments,
        encoder: Embedder,
        *,
        passage_tokens: int = 0,
        encoder_name: str = "",
        total: int = 0,
        progress: Progress = no_progress,
    ) -> MilvusRetriever:
        """Embed documents into a new collection. `address` is a file name for Milvus Lite, or http://HOST:PORT.

        `SharedDocuments` are read, embedded and inserted by workers, which need a server. The other options are those
        of `BuildOptions`.

        Raises:
            FolderError: the collection exists, or Milvus cannot be reached.
            DataError: no documents, two with the same id, or a text or id beyond Milvus's limits.
        """
        require_embedder(encoder)
        state = State(
            encoder=encoder.fingerprint,
            teacher=teacher_of(encoder),
            dim=encoder.dim,
            window=choose_window(encoder, passage_tokens),
            encoder_name=encoder_name or source_of(encoder),
        )
        made = cls(Collection.create(address, collection, state), encoder)
        try:
            if isinstance(documents, SharedDocuments):
                insert_shared(documents, made._kept, encoder, progress)
            else:
                made._insert(documents, total=total, progress=progress)
        except BaseException:  # Ctrl-C too: no command drops what is half there
            made.drop()
            made.close()
            raise
        return made

    @classmethod
    def open(cls, address: str, collection: str, encoder: Embedder) -> MilvusRetriever:
        """Open a collection with the encoder that it was built with, or that one's teacher or student.

        Raises:
            FolderError: no such collection made by kdserve, another encoder, or Milvus cannot be reached.
        """
        require_embedder(encoder)
        opened = cls(Collection.open(address, collection), encoder)
        state = opened._kept.state
        try:
            require_compatible(f"{address} {collection}", state.encoder, state.teacher, encoder)
        except FolderError:
            opened.close()
            raise
        return opened

    def __len__(self) -> int:
        """The number of documents."""
        return len(self._kept)

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
        """As `Retriever.search`; names that no document has are missing in all."""
        return self.search_batch(
            [query], k, where=where, min_score=min_score, per_language=per_language, rerank=rerank
        )[0]

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
        """As `Retriever.search_batch`."""
        options = SearchOptions(k=k, where=where, min_score=min_score, per_language=per_language, rerank=rerank)
        condition = as_milvus(parse_filter(where)) if where else ""
        texts = require_texts(queries)
        vectors = require_unit_rows(self.encoder.encode_query(texts), len(texts), self.encoder.dim)

        def find(first: SearchOptions) -> list[list[Hit]]:
            def ranked(numbers: Sequence[int], depth: int) -> Iterator[tuple[list[Hit], int]]:
                found = self._kept.client.search(
                    self.collection, data=vectors[numbers].tolist(), limit=depth, filter=condition, output_fields=FIELDS
                )
                return ((_hits(entities, first), len(entities)) for entities in found)

            return widen_until_enough(asking(texts, vectors), first, ranked, first_depth=first.k + 1, most=MAX_HITS)

        return search_and_rerank(vectors, options, self.encoder, find)

    def texts_among(self, texts: Iterable[str]) -> set[str]:
        """As `Retriever.texts_among`, where a text is known by its first passage."""
        texts = require_texts(texts)
        beginnings = first_passages(texts, self.encoder, window=self._kept.state.window)
        found = self._kept.first_passages_among(sorted(set(beginnings)))
        return {text for text, beginning in zip(texts, beginnings, strict=True) if beginning in found}

    def add(self, documents: Iterable[Document], *, total: int = 0, progress: Progress = no_progress) -> None:
        """Add documents; an id that is there already is an error, and what came before it stays."""
        self._insert(documents, total=total, progress=progress)

    def update(
        self, documents: Iterable[Document | NewMetadata], *, total: int = 0, progress: Progress = no_progress
    ) -> None:
        """Put documents in the place of those with the same ids; the others are added. New metadata as in `Retriever`.

        After an error, what came before it stays.
        """
        new: list[NewMetadata] = []
        self._insert(_texts_of(documents, new), updated=new, total=total, progress=progress)

    def delete(self, ids: Sequence[Id]) -> None:
        """Delete the documents with these ids; if one is not there, nothing is deleted."""
        if isinstance(ids, str):
            raise TypeError("expected a sequence of ids, got one str; put it into a list")
        ids = list(ids)
        known = self._kept.places(ids)
        if absent := [id_ for id_ in ids if document_key(id_) not in known]:
            raise DataError(f"{self.collection} has no document {absent[0]!r}; nothing was deleted")
        self._kept.delete(known)

    def drop(self) -> None:
        """Remove the collection and its state."""
        self._kept.drop()

    def close(self) -> None:
        """Let go of the connection, or of the file."""
        self._kept.client.close()

    def _insert(
        self,
        documents: Iterable[Document],
        *,
        updated: list[NewMetadata] | None = None,
        total: int,
        progress: Progress,
    ) -> None:
        kept, done = self._kept, 0
        if self.encoder.fingerprint != kept.state.encoder:
            raise FolderError(f"{self.collection} takes documents only from the encoder that built it; open it so")
        before = None if updated is None else range(kept.state.next_place)
        for chunk in embed_documents(documents, self.encoder, Splitting(window=kept.state.window)):
            done += len(kept.put(chunk, replacing=before))
            kept.save(kept.state)
            progress("index", done, total)
        if updated and before is not None:
            kept.change_metadata(updated, before=before)
        if not (done or updated):
            raise DataError(f"there are no texts to index in {self.collection}; give at least one that is not blank")


def _texts_of(documents: Iterable[Document | NewMetadata], new: list[NewMetadata]) -> Iterator[Document]:
    """The documents with a text; the others are put aside."""
    for document in documents:
        if isinstance(document, NewMetadata):
            new.append(document)
        else:
            yield document


def _hits(entities: Sequence[Mapping[str, Any]], options: SearchOptions) -> list[Hit]:
    """Hits in order of score, then of insertion; `folded`, of each document only its best passage."""
    best: dict[Any, Hit] = {}
    for found in sorted(entities, key=lambda found: (-found["distance"], found["entity"]["place"])):
        entity = found["entity"]
        key = entity["document"] if options.folded else (entity["document"], entity["start"])
        if found["distance"] >= options.min_score and key not in best:
            best[key] = Hit(
                id=json.loads(entity["document"]),
                score=float(found["distance"]),
                text=entity["text"],
                language=entity["language"],
                metadata=entity["metadata"],
                passage=(entity["start"], entity["end"]) if entity["split"] else None,
            )
    return list(best.values())


def encoder_of(address: str, collection: str) -> str:
    """The name under which the encoder of a collection was opened; "" if none was recorded. Raises as `open`."""
    kept = Collection.open(address, collection)
    kept.client.close()
    return kept.state.encoder_name
