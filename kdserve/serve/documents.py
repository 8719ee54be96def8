"""Documents of indexes over HTTP: added, replaced, changed, deleted, by those whose key may write."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import msgspec

from kdserve.datatypes import Cell
from kdserve.errors import DataError
from kdserve.search import Document, NewMetadata
from kdserve.serve.endpoint import Call, Endpoint, Reply
from kdserve.serve.indexes import ServedIndex, find_index
from kdserve.serve.openai import require_number
from kdserve.serve.refusals import Refusal
from kdserve.serve.settings import Limits
from kdserve.serve.workers import Workers

WRITE_PATIENCE_S = 3600.0


class DocumentBody(msgspec.Struct, forbid_unknown_fields=True):
    """A document: without an id the index gives it the next number."""

    text: str
    id: str | int | None = None
    language: str | None = None
    metadata: dict[str, Cell] = {}


class AddRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Documents for an index."""

    documents: Annotated[list[DocumentBody], msgspec.Meta(min_length=1)]
    index: str | None = None


class MetadataBody(msgspec.Struct, forbid_unknown_fields=True):
    """Changes of the document with this id: fields that are null are taken away, others not named here stay."""

    id: str | int
    language: str | None = None
    metadata: dict[str, Cell] = {}


class MetadataRequest(msgspec.Struct, forbid_unknown_fields=True):
    """New metadata for documents of an index."""

    documents: Annotated[list[MetadataBody], msgspec.Meta(min_length=1)]
    index: str | None = None


class DeleteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Documents to delete by id."""

    ids: Annotated[list[str | int], msgspec.Meta(min_length=1)]
    index: str | None = None


class ChangeReply(msgspec.Struct):
    """The index after a change."""

    index: str
    generation: int
    documents: int


class Documents:
    """The endpoints, for some indexes. One writer at a time changes indexes, on a thread of its own."""

    def __init__(self, indexes: Mapping[str, ServedIndex], limits: Limits) -> None:
        self._indexes, self._limits = indexes, limits
        self.writer = Workers(1, patience_s=WRITE_PATIENCE_S)

    def endpoints(self) -> list[Endpoint]:
        """List the paths of this part of the API."""

        def change(method: Any, summary: str, answer: Any, takes: Any) -> Endpoint:
            return Endpoint(
                method=method, path="/documents", summary=summary, answer=answer, takes=takes, gives=ChangeReply,
                needs="write", refuses=(400, 404, 409, 413, 429, 507),
            )  # fmt: skip

        return [
            change("POST", "Add documents; an id that is there is an error", self.add, AddRequest),
            change("PUT", "Add documents, or replace those with the same ids", self.update, AddRequest),
            change("PATCH", "Change metadata alone; texts stay", self.change_metadata, MetadataRequest),
            change("DELETE", "Delete documents", self.delete, DeleteRequest),
        ]

    async def add(self, call: Call, request: AddRequest) -> Reply:
        """Answer POST /documents."""
        return await self._add(request, _document, update=False)

    async def update(self, call: Call, request: AddRequest) -> Reply:
        """Answer PUT /documents."""
        return await self._add(request, _document, update=True)

    async def change_metadata(self, call: Call, request: MetadataRequest) -> Reply:
        """Answer PATCH /documents."""
        return await self._add(request, _new_metadata, update=True)

    async def delete(self, call: Call, request: DeleteRequest) -> Reply:
        """Answer DELETE /documents."""
        index = find_index(self._indexes, request.index)
        require_number(len(request.ids), self._limits.texts)
        with _blamed("ids"):
            await self._write(lambda: index.delete(request.ids))
        return _changed(index)

    async def _add(
        self,
        request: AddRequest | MetadataRequest,
        read: Callable[[Any], Document | NewMetadata],
        *,
        update: bool,
    ) -> Reply:
        index = find_index(self._indexes, request.index)
        require_number(len(request.documents), self._limits.texts)
        with _blamed("documents"):
            documents = list(map(read, request.documents))
            await self._write(lambda: index.add(documents, update=update))
        return _changed(index)

    async def _write(self, work: Callable[[], None]) -> None:
        """Do one change, on the thread of the writer; a client that hangs up does not stop what has begun."""
        if not self.writer.num_idle:
            raise Refusal("overloaded", "another change is being written; try again when it is done", retry_s=1.0)
        await self.writer.run(work)


@contextlib.contextmanager
def _blamed(param: str) -> Iterator[None]:
    """Name the field in which data that cannot be stood."""
    try:
        yield
    except DataError as error:
        raise Refusal("invalid", str(error), param=param) from error


def _document(given: DocumentBody) -> Document:
    return Document(text=given.text, id=given.id, language=given.language, metadata=given.metadata)


def _new_metadata(given: MetadataBody) -> NewMetadata:
    return NewMetadata(id=given.id, language=given.language, metadata=given.metadata)


def _changed(index: ServedIndex) -> Reply:
    body = ChangeReply(index=index.name, generation=index.generation, documents=index.snapshot.num_documents)
    return Reply(body=body)
