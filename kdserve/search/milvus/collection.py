"""A collection of Milvus as an index: one entity is one passage.

A second collection, NAME_state, says which encoder the first is for. Milvus has no transactions, so a change that is
interrupted may be half there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kdserve.errors import DataError, FolderError
from kdserve.search.documents.chunks import chunks
from kdserve.search.documents.document import Id, NewMetadata, number_documents
from kdserve.search.documents.embedding import Embedded
from kdserve.search.milvus.client import Client, DataType
from kdserve.search.milvus.filter import document_key

MAX_KEY_BYTES = 1024
MAX_TEXT_BYTES = 65_535
AT_ONCE = 500
CHANGED_AT_ONCE = 16
"""Documents whose passages are read at once to be written with other metadata."""
FIELDS = ["document", "place", "start", "end", "split", "text", "language", "metadata"]
_ALL = ["key", *FIELDS, "vector"]


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The encoder of a collection, and how its documents are split and counted. `next_place` keeps the order of
    insertion.
    """

    encoder: str
    teacher: str
    dim: int
    window: int
    encoder_name: str = ""
    next_id: int = 0
    next_place: int = 0


class Collection:
    """The passages under a name at an address, and their state.

    Raises, everywhere:
        FolderError: Milvus cannot be reached, or refuses.
    """

    def __init__(self, client: Client, name: str, state: State) -> None:
        self.client, self.name, self.state = client, name, state

    @classmethod
    def create(cls, address: str, name: str, state: State) -> Collection:
        """Make a new collection, or raise FolderError where there is one of that name."""
        client = Client(address)
        made = cls(client, name, state)
        with ExitStack() as undo:
            undo.callback(client.close)
            for one in (name, f"{name}_state"):
                if client.has_collection(one):
                    raise FolderError(f"{address} has a collection {one} already; choose another name or drop it")
            undo.callback(made.drop)
            _make(client, name, _passages(client, state.dim))
            _make(client, f"{name}_state", _states(client))
            made.save(state)
            undo.pop_all()
        return made

    @classmethod
    def open(cls, address: str, name: str) -> Collection:
        """Open a collection, or raise FolderError where kdserve made none of that name."""
        if address.endswith(".db") and not Path(address).exists():  # which Milvus Lite would make
            raise FolderError(f"there is no {address}; check the path, or build a collection there")
        client = Client(address)
        with ExitStack() as undo:
            undo.callback(client.close)
            if not client.has_collection(f"{name}_state"):
                raise FolderError(f"{address} has no collection {name} made by kdserve; check the name")
            for one in (name, f"{name}_state"):
                client.load_collection(one)  # Milvus Lite forgets which were when its last client goes
            rows = client.query(f"{name}_state", filter="key == 0", output_fields=["state"])
            opened = cls(client, name, State(**rows[0]["state"]))
            undo.pop_all()
        return opened

    def save(self, state: State) -> None:
        """Keep a new state."""
        self.state = state
        row = {"key": 0, "state": asdict(state), "vector": [0.0, 0.0]}
        self.client.upsert(f"{self.name}_state", [row])

    def __len__(self) -> int:
        counted = self.client.query(self.name, filter="start == 0", output_fields=["count(*)"])
        return int(counted[0]["count(*)"])

    def put(self, chunk: Embedded, *, replacing: range | None = None) -> list[Id]:
        """Insert the documents of a chunk, and count them in the state, which is not kept yet; returns their ids.

        Raises:
            DataError: an id that is there already, but where its document stands at one of the places `replacing`.
        """
        numbered, next_id = number_documents(chunk.documents, self.state.next_id)
        ids = [document.id for document in numbered if document.id is not None]
        known, counts = self.places(ids), Counter(ids)
        for id_ in ids:
            key = document_key(id_)
            if counts[id_] > 1 or (key in known and (replacing is None or known[key] not in replacing)):
                raise DataError(f"id {id_!r} is in {self.name} already; update it, or choose another id")
        rows = list(_rows(replace(chunk, documents=numbered), self.state.next_place))
        self.delete(known)
        for some in chunks(rows, AT_ONCE):
            self.client.upsert(self.name, some)
        self.state = replace(self.state, next_id=next_id, next_place=self.state.next_place + len(rows))
        return ids

    def change_metadata(self, new: Sequence[NewMetadata], *, before: range) -> None:
        """Give documents that stand at the places `before` new metadata; texts and vectors stay.

        Raises:
            DataError: an id twice, or one that is not there; nothing is changed then.
        """
        changes = {document_key(one.id): one for one in new}
        known = self.places([one.id for one in new])
        if len(changes) < len(new) or any(place not in before for place in known.values()):
            counts = Counter(one.id for one in new)
            twice = next(id_ for id_, n in counts.items() if n > 1 or known.get(document_key(id_), 0) not in before)
            raise DataError(f"id {twice!r} occurs twice; ids must be unique, fix the texts")
        if absent := changes.keys() - known.keys():
            id_ = json.loads(min(absent))
            raise DataError(f"{self.name} has no document {id_!r}, and no text for it came; give its text")
        for keys in chunks(changes, CHANGED_AT_ONCE):
            rows = self.client.query(self.name, filter=f"document in {_listed(keys)}", output_fields=_ALL)
            for row in rows:
                change = changes[row["document"]]
                metadata = {**row["metadata"], **change.metadata}
                row["language"] = change.language or row["language"]
                row["metadata"] = {name: value for name, value in metadata.items() if value is not None}
            for some in chunks(rows, AT_ONCE):
                self.client.upsert(self.name, some)

    def places(self, ids: Sequence[Id]) -> dict[str, int]:
        """The keys of those documents that are there, and the places of their first passages."""
        found: dict[str, int] = {}
        for keys in chunks(map(document_key, ids), AT_ONCE):
            condition = f"start == 0 and document in {_listed(keys)}"
            rows = self.client.query(self.name, filter=condition, output_fields=["document", "place"], limit=len(keys))
            found.update((row["document"], row["place"]) for row in rows)
        return found

    def first_passages_among(self, texts: Sequence[str]) -> set[str]:
        """Which of some texts are the first passages of documents."""
        condition = f"start == 0 and text in {_listed(texts)}"
        return {row["text"] for row in self.client.query(self.name, filter=condition, output_fields=["text"])}

    def delete(self, keys: Iterable[str]) -> None:
        """Delete documents by their keys."""
        for some in chunks(sorted(keys), AT_ONCE):
            self.client.delete(self.name, filter=f"document in {_listed(some)}")

    def drop(self) -> None:
        """Remove the collection and its state."""
        for name in (self.name, f"{self.name}_state"):
            self.client.drop_collection(name)


def _passages(client: Client, dim: int) -> Any:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=MAX_KEY_BYTES + 16)
    schema.add_field("document", DataType.VARCHAR, max_length=MAX_KEY_BYTES)
    for number in ("place", "start", "end"):
        schema.add_field(number, DataType.INT64)
    schema.add_field("split", DataType.BOOL)
    schema.add_field("text", DataType.VARCHAR, max_length=MAX_TEXT_BYTES)
    schema.add_field("language", DataType.VARCHAR, max_length=64, nullable=True)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    return schema


def _states(client: Client) -> Any:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("state", DataType.JSON)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    return schema


def _make(client: Client, name: str, schema: Any) -> None:
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")


def _listed(texts: Sequence[str]) -> str:
    return json.dumps(texts, ensure_ascii=False)


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
