"""The same retriever over Milvus: a file of Milvus Lite on this machine, or a cluster by its address.

One entity is one passage. Milvus keeps vectors and finds neighbours, by inner product; it has no transactions, so a
change that is interrupted may be half there. Texts, metadata and filters mean the same as in an index folder. A second
collection, NAME_state, says which encoder the first is for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdserve.datatypes import Embedder, Hit, Progress, no_progress, require_texts
from kdserve.errors import DataError, FolderError, KdserveError, MissingExtraError
from kdserve.search.backends.vectors import require_unit_rows
from kdserve.search.documents.document import Document, Id, number_documents
from kdserve.search.documents.embedding import Embedded, embed_documents
from kdserve.search.documents.passages import choose_window
from kdserve.search.filters.expression import parse_filter
from kdserve.search.index.build import chunks
from kdserve.search.index.compatibility import require_compatible, teacher_of
from kdserve.search.milvus.filter import as_milvus, document_key
from kdserve.search.protocol import RetrieverProtocol
from kdserve.search.query.ranking import SearchOptions, widen_until_enough

try:
    from pymilvus import DataType, MilvusClient, MilvusException
except ImportError as missing:
    raise MissingExtraError("pymilvus", "milvus") from missing

MAX_KEY_BYTES = 1024
MAX_TEXT_BYTES = 65_535
MAX_HITS = 16_384
AT_ONCE = 500
FIELDS = ["document", "place", "start", "end", "split", "text", "language", "metadata"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """State kept in a collection of its own: the encoder and how documents are split and counted."""

    encoder: str
    teacher: str
    dim: int
    window: int
    encoder_name: str = ""
    next_id: int = 0
    next_place: int = 0


class _Client:
    """`MilvusClient`; what a call raises, from the first to the last, says where and what to do."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = self._told(MilvusClient)(address)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._told(getattr(self._client, name))

    def _told(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def told(*values: Any, **options: Any) -> Any:
            try:
                return call(*values, **options)
            except MilvusException as error:
                message = f"Milvus at {self._address} answered: {error.message}; check the address and the server"
                raise FolderError(message) from error

        return told


class MilvusRetriever(RetrieverProtocol):
    """A Milvus collection with the encoder that it was built with; the methods are those of `Retriever`."""

    def __init__(self, client: _Client, collection: str, encoder: Embedder, state: _State) -> None:
        self.collection, self.encoder = collection, encoder
        self._client, self._state = client, state

    @classmethod
    def build(
        cls,
        address: str,
        collection: str,
        documents: Iterable[Document],
        encoder: Embedder,
        *,
        passage_tokens: int = 0,
        encoder_name: str = "",
        total: int = 0,
        progress: Progress = no_progress,
    ) -> MilvusRetriever:
        """Embed documents into a new collection. `address` is a file name for Milvus Lite, or http://HOST:PORT.

        The other options are those of `BuildOptions`.

        Raises:
            FolderError: the collection exists, or Milvus cannot be reached.
            DataError: no documents, two with the same id, or a text or id beyond Milvus's limits.
        """
        state = _State(
            encoder=encoder.fingerprint,
            teacher=teacher_of(encoder),
            dim=encoder.dim,
            window=choose_window(encoder, passage_tokens),
            encoder_name=encoder_name,
        )
        client = _Client(address)
        if client.has_collection(collection):
            raise FolderError(f"{address} has a collection {collection} already; choose another name or drop it")
        made = cls(client, collection, encoder, state)
        made._create()
        try:
            made._insert(documents, total=total, progress=progress)
        except KdserveError:
            made.drop()
            raise
        return made

    @classmethod
    def open(cls, address: str, collection: str, encoder: Embedder) -> MilvusRetriever:
        """Open a collection with the encoder that it was built with, or that one's teacher or student.

        Raises:
            FolderError: no such collection made by kdserve, another encoder, or Milvus cannot be reached.
        """
        client, state = _find(address, collection)
        require_compatible(f"{address} {collection}", state.encoder, state.teacher, encoder)
        return cls(client, collection, encoder, state)

    def __len__(self) -> int:
        """The number of documents."""
        counted = self._client.query(self.collection, filter="start == 0", output_fields=["count(*)"])
        return int(counted[0]["count(*)"])

    def search(
        self, query: str, k: int = 10, *, where: str = "", min_score: float = -np.inf, per_language: int = 0
    ) -> list[Hit]:
        """As `Retriever.search`; names that no document has are missing in all."""
        return self.search_batch([query], k, where=where, min_score=min_score, per_language=per_language)[0]

    def search_batch(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        where: str = "",
        min_score: float = -np.inf,
        per_language: int = 0,
    ) -> list[list[Hit]]:
        """As `Retriever.search_batch`."""
        options = SearchOptions(k=k, where=where, min_score=min_score, per_language=per_language)
        condition = as_milvus(parse_filter(where)) if where else ""
        texts = require_texts(queries)
        vectors = require_unit_rows(self.encoder.encode_query(texts), len(texts), self.encoder.dim)

        def ranked(numbers: Sequence[int], depth: int) -> Iterator[tuple[list[Hit], int]]:
            found = self._client.search(
                self.collection, data=vectors[numbers].tolist(), limit=depth, filter=condition, output_fields=FIELDS
            )
            return ((_hits(entities, min_score), len(entities)) for entities in found)

        return widen_until_enough(texts, options, ranked, first_depth=k + 1, most=MAX_HITS)

    def add(self, documents: Iterable[Document], *, total: int = 0, progress: Progress = no_progress) -> None:
        """Add documents; an id that is there already is an error, and what came before it stays."""
        self._insert(documents, total=total, progress=progress)

    def update(self, documents: Iterable[Document], *, total: int = 0, progress: Progress = no_progress) -> None:
        """Put documents in the place of those with the same ids; the others are added."""
        self._insert(documents, replacing=True, total=total, progress=progress)

    def delete(self, ids: Sequence[Id]) -> None:
        """Delete the documents with these ids; if one is not there, nothing is deleted."""
        if isinstance(ids, str):
            raise TypeError("expected a sequence of ids, got one str; put it into a list")
        known = self._known(ids)
        if absent := [id_ for id_ in ids if document_key(id_) not in known]:
            raise DataError(f"{self.collection} has no document {absent[0]!r}; nothing was deleted")
        self._delete(known)

    def drop(self) -> None:
        """Remove the collection and its state."""
        for name in (self.collection, f"{self.collection}_state"):
            self._client.drop_collection(name)

    def close(self) -> None:
        """Let go of the connection, or of the file."""
        self._client.close()

    def _create(self) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=MAX_KEY_BYTES + 16)
        schema.add_field("document", DataType.VARCHAR, max_length=MAX_KEY_BYTES)
        for name in ("place", "start", "end"):
            schema.add_field(name, DataType.INT64)
        schema.add_field("split", DataType.BOOL)
        schema.add_field("text", DataType.VARCHAR, max_length=MAX_TEXT_BYTES)
        schema.add_field("language", DataType.VARCHAR, max_length=64, nullable=True)
        schema.add_field("metadata", DataType.JSON)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._state.dim)
        self._make(self.collection, schema)
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", DataType.INT64, is_primary=True)
        schema.add_field("state", DataType.JSON)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
        self._make(f"{self.collection}_state", schema)
        self._save(self._state)

    def _make(self, name: str, schema: Any) -> None:
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        self._client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")

    def _save(self, state: _State) -> None:
        self._state = state
        row = {"key": 0, "state": asdict(state), "vector": [0.0, 0.0]}
        self._client.upsert(f"{self.collection}_state", [row])

    def _insert(
        self, documents: Iterable[Document], *, replacing: bool = False, total: int, progress: Progress
    ) -> None:
        if self.encoder.fingerprint != self._state.encoder:
            raise FolderError(f"{self.collection} takes documents only from the encoder that built it; open it so")
        done = 0
        for chunk in embed_documents(documents, self.encoder, window=self._state.window):
            numbered, next_id = number_documents(chunk.documents, self._state.next_id)
            ids = [document.id for document in numbered if document.id is not None]
            known = self._known(ids)
            if len({document_key(id_) for id_ in ids}) < len(ids) or (known and not replacing):
                twice = next(id_ for id_ in ids if ids.count(id_) > 1 or document_key(id_) in known)
                raise DataError(f"id {twice!r} is in {self.collection} already; update it, or choose another id")
            rows = list(_rows(replace(chunk, documents=numbered), self._state.next_place))
            self._delete(known)
            for some in chunks(rows, AT_ONCE):
                self._client.insert(self.collection, some)
            self._save(replace(self._state, next_id=next_id, next_place=self._state.next_place + len(rows)))
            done += len(numbered)
            progress("index", done, total)
        if not done:
            raise DataError(f"there are no texts to index in {self.collection}; give at least one that is not blank")

    def _known(self, ids: Sequence[Id]) -> set[str]:
        """The keys of those documents that are there."""
        known: set[str] = set()
        for some in chunks(map(document_key, ids), AT_ONCE):
            condition = f"start == 0 and document in {json.dumps(some, ensure_ascii=False)}"
            found = self._client.query(self.collection, filter=condition, output_fields=["document"], limit=len(some))
            known.update(row["document"] for row in found)
        return known

    def _delete(self, keys: Iterable[str]) -> None:
        for some in chunks(sorted(keys), AT_ONCE):
            self._client.delete(self.collection, filter=f"document in {json.dumps(some, ensure_ascii=False)}")


def _rows(chunk: Embedded, place: int) -> Iterator[dict[str, Any]]:
    """Milvus's rows of some documents, one for each passage; `place` keeps the order of insertion."""
    number = 0
    for document, spans in zip(chunk.documents, chunk.spans, strict=True):
        assert document.id is not None
        key = document_key(document.id)
        for passage, (start, end) in enumerate(spans):
            text = document.text[start:end]
            if len(key.encode()) > MAX_KEY_BYTES or len(text.encode()) > MAX_TEXT_BYTES:
                raise DataError(f"document {key[:80]} has an id or a passage that is too long for Milvus; shorten it")
            yield {
                "key": f"{key}#{passage}",
                "document": key,
                "place": place + number,
                "start": start if passage else 0,
                "end": end,
                "split": len(spans) > 1,
                "text": text,
                "language": document.language,
                "metadata": {name: value for name, value in document.metadata.items() if value is not None},
                "vector": chunk.vectors[number].tolist(),
            }
            number += 1


def _hits(entities: Sequence[Mapping[str, Any]], min_score: float) -> list[Hit]:
    """Hits in order of score, then of insertion; of each document only its best passage."""
    best: dict[str, Hit] = {}
    for found in sorted(entities, key=lambda found: (-found["distance"], found["entity"]["place"])):
        entity = found["entity"]
        if found["distance"] >= min_score and entity["document"] not in best:
            best[entity["document"]] = Hit(
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
    client, state = _find(address, collection)
    client.close()
    return state.encoder_name


def _find(address: str, collection: str) -> tuple[_Client, _State]:
    if address.endswith(".db") and not Path(address).exists():  # which Milvus Lite would make
        raise FolderError(f"there is no {address}; check the path, or build a collection there")
    client = _Client(address)
    if not client.has_collection(f"{collection}_state"):
        client.close()
        raise FolderError(f"{address} has no collection {collection} made by kdserve; check the name")
    for name in (collection, f"{collection}_state"):
        client.load_collection(name)  # Milvus Lite forgets which were when its last client goes
    rows = client.query(f"{collection}_state", filter="key == 0", output_fields=["state"])
    return client, _State(**rows[0]["state"])
