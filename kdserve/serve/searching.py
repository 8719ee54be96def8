"""What is our own: search in indexes, their documents, and classification."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import msgspec

from kdserve.datatypes import Cell, Hit
from kdserve.errors import DataError
from kdserve.search import Document
from kdserve.search.query.ranking import SearchOptions
from kdserve.search.query.snippets import MAX_QUERY_CHARACTERS, make_snippet
from kdserve.serve.endpoint import Call, Endpoint, Reply, cut_headers
from kdserve.serve.indexes import ServedIndex, search
from kdserve.serve.models import Models
from kdserve.serve.openai import require_number
from kdserve.serve.refusals import Refusal
from kdserve.serve.settings import Limits
from kdserve.serve.tei import Prediction, predictions
from kdserve.serve.workers import Workers

WRITE_PATIENCE_S = 3600.0
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class SearchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What to look for. Without `index` the first one is meant; `where` is a filter over metadata."""

    query: str
    index: str | None = None
    k: AtLeastOne = 10
    where: str = ""
    min_score: float = -1.0
    lexical: bool = False
    per_language: Annotated[int, msgspec.Meta(ge=0)] = 0
    snippets: bool = True


class SnippetBody(msgspec.Struct):
    """The characters [start, end) of a hit's text, and where in the snippet the words of the query stand."""

    text: str
    start: int
    end: int
    highlights: list[tuple[int, int]]


class HitBody(msgspec.Struct):
    """A document that was found; `passage` are the characters of it that `text` is, null for the whole document."""

    id: str | int
    score: float
    text: str
    language: str | None
    metadata: Mapping[str, Cell]
    passage: tuple[int, int] | None
    snippet: SnippetBody | None


class SearchReply(msgspec.Struct):
    """The hits, best first, and the generation of the index that they come from."""

    index: str
    generation: int
    hits: list[HitBody]
    truncated: bool
    took_ms: float


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


class DeleteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Documents to delete by id."""

    ids: Annotated[list[str | int], msgspec.Meta(min_length=1)]
    index: str | None = None


class ChangeReply(msgspec.Struct):
    """The index after a change."""

    index: str
    generation: int
    documents: int


class IndexBody(msgspec.Struct):
    """An index as it stands."""

    name: str
    generation: int
    documents: int
    model: str
    fields: list[str]
    lexical: bool


class ClassifyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Texts to classify; `top` labels of each, the likeliest first."""

    texts: str | Annotated[list[str], msgspec.Meta(min_length=1)]
    model: str | None = None
    top: AtLeastOne = 3
    truncate: bool = True


class Classified(msgspec.Struct):
    """The likeliest label of a text, and the next ones."""

    label: str
    probability: float
    labels: list[Prediction]
    truncated: bool


class ClassifyReply(msgspec.Struct):
    """One result a text, in order."""

    model: str
    results: list[Classified]


class Searching:
    """The endpoints, for some models and indexes. One writer at a time changes indexes, on a thread of its own."""

    def __init__(self, models: Models, indexes: Mapping[str, ServedIndex], limits: Limits) -> None:
        self._models, self._indexes, self._limits = models, indexes, limits
        self.writer = Workers(1, patience_s=WRITE_PATIENCE_S)

    def endpoints(self) -> list[Endpoint]:
        """The paths of this part of the API."""

        def change(method: Any, summary: str, answer: Any, takes: Any) -> Endpoint:
            return Endpoint(
                method=method, path="/documents", summary=summary, answer=answer, takes=takes, gives=ChangeReply,
                needs="write", refuses=(400, 404, 409, 413, 429),
            )  # fmt: skip

        return [
            Endpoint(
                method="POST", path="/search", summary="Search an index", answer=self.search, takes=SearchRequest,
                gives=SearchReply, refuses=(400, 404, 413, 429, 504),
            ),
            Endpoint(
                method="GET", path="/indexes", summary="The indexes", answer=self.list_indexes, gives=list[IndexBody]
            ),
            change("POST", "Add documents; an id that is there is an error", self.add, AddRequest),
            change("PUT", "Add documents, or replace those with the same ids", self.update, AddRequest),
            change("DELETE", "Delete documents", self.delete, DeleteRequest),
            Endpoint(
                method="POST", path="/classify", summary="Classify texts", answer=self.classify, takes=ClassifyRequest,
                gives=ClassifyReply, refuses=(400, 404, 413, 429, 504),
            ),
        ]  # fmt: skip

    async def search(self, call: Call, request: SearchRequest) -> Reply:
        """Answer POST /search."""
        began = time.perf_counter()
        index = self._index(request.index)
        if request.k > self._limits.hits:
            raise Refusal("invalid", f"k is {request.k}, {self._limits.hits} are allowed; ask for fewer", param="k")
        options = SearchOptions(
            k=request.k,
            where=request.where,
            min_score=request.min_score,
            lexical=request.lexical,
            per_language=request.per_language,
        )
        asked = await index.encoder.embed([request.query], role="query", truncate=True, on_wait=call.wait)
        words = request.query.lstrip()[:MAX_QUERY_CHARACTERS]
        is_cut = [asked.is_cut[0] or len(request.query.lstrip()) > len(words)]

        def find() -> tuple[int, list[HitBody]]:
            found = search(index, words, asked.rows, options)
            return found.generation, [_hit(hit, words if request.snippets else None) for hit in found.hits]

        generation, hits = await index.encoder.batcher.aside(find, call.wait)
        took_ms = round((time.perf_counter() - began) * 1000, 3)
        body = SearchReply(index=index.name, generation=generation, hits=hits, truncated=is_cut[0], took_ms=took_ms)
        return Reply(body=body, headers=[*cut_headers(is_cut), (b"x-index-generation", b"%d" % generation)])

    async def list_indexes(self, call: Call, request: None) -> Reply:
        """Answer GET /indexes."""
        return Reply(body=[_index_body(index) for index in self._indexes.values()])

    async def add(self, call: Call, request: AddRequest) -> Reply:
        """Answer POST /documents."""
        return await self._add(request, update=False)

    async def update(self, call: Call, request: AddRequest) -> Reply:
        """Answer PUT /documents."""
        return await self._add(request, update=True)

    async def delete(self, call: Call, request: DeleteRequest) -> Reply:
        """Answer DELETE /documents."""
        index = self._index(request.index)
        require_number(len(request.ids), self._limits.texts)
        with _blamed("ids"):
            await self._write(lambda: index.delete(request.ids))
        return _changed(index)

    async def classify(self, call: Call, request: ClassifyRequest) -> Reply:
        """Answer POST /classify."""
        model = self._models.classifier(request.model)
        texts = [request.texts] if isinstance(request.texts, str) else request.texts
        require_number(len(texts), self._limits.texts)
        answer = await model.classify(texts, truncate=request.truncate, on_wait=call.wait)
        results = [
            Classified(label=labels[0].label, probability=labels[0].score, labels=labels[: request.top], truncated=cut)
            for labels, cut in zip(predictions(model, answer.rows), answer.is_cut, strict=True)
        ]
        return Reply(body=ClassifyReply(model=model.name, results=results), headers=cut_headers(answer.is_cut))

    async def _add(self, request: AddRequest, *, update: bool) -> Reply:
        index = self._index(request.index)
        require_number(len(request.documents), self._limits.texts)
        with _blamed("documents"):
            documents = [
                Document(text=one.text, id=one.id, language=one.language, metadata=one.metadata)
                for one in request.documents
            ]
            await self._write(lambda: index.add(documents, update=update))
        return _changed(index)

    async def _write(self, work: Callable[[], None]) -> None:
        """Do one change, on the thread of the writer; a client that hangs up does not stop what has begun."""
        if not self.writer.num_idle:
            raise Refusal("overloaded", "another change is being written; try again when it is done", retry_s=1.0)
        await self.writer.run(work)

    def _index(self, name: str | None) -> ServedIndex:
        if name is None and self._indexes:
            return next(iter(self._indexes.values()))
        if name is None or name not in self._indexes:
            there = ", ".join(self._indexes)
            message = f"there is no index {name!r} here; there is: {there}" if there else "this server has no index"
            raise Refusal("missing", message, param="index")
        return self._indexes[name]


@contextlib.contextmanager
def _blamed(param: str) -> Iterator[None]:
    """Name the field in which data that cannot be stood."""
    try:
        yield
    except DataError as error:
        raise Refusal("invalid", str(error), param=param) from error


def _hit(hit: Hit, query: str | None) -> HitBody:
    snippet = None
    if query is not None:
        made = make_snippet(hit.text, query)
        snippet = SnippetBody(text=made.text, start=made.start, end=made.end, highlights=list(made.highlights))
    return HitBody(
        id=hit.id,
        score=hit.score,
        text=hit.text,
        language=hit.language,
        metadata=hit.metadata,
        passage=hit.passage,
        snippet=snippet,
    )


def _changed(index: ServedIndex) -> Reply:
    body = ChangeReply(index=index.name, generation=index.generation, documents=index.snapshot.num_documents)
    return Reply(body=body)


def _index_body(index: ServedIndex) -> IndexBody:
    snapshot = index.snapshot
    fields = sorted({name for segment in snapshot.segments for name in segment.stored.field_names()})
    return IndexBody(
        name=index.name,
        generation=index.generation,
        documents=snapshot.num_documents,
        model=index.encoder.name,
        fields=fields,
        lexical=snapshot.state.lexical,
    )
