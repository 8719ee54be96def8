"""Our own API: search in indexes, and classification."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from kdserve.datatypes import Cell, Embeddings, Hit, Sentence
from kdserve.search.index.lexical import MAX_QUERY_CHARACTERS
from kdserve.search.query.answers import Answer, Sentences, rerank
from kdserve.search.query.ranking import SearchOptions
from kdserve.search.query.snippets import snippet_of
from kdserve.serve.endpoint import Call, Endpoint, Reply, cut_headers
from kdserve.serve.indexes import ServedIndex, find_index, search
from kdserve.serve.models import Models
from kdserve.serve.openai import require_number
from kdserve.serve.refusals import Refusal
from kdserve.serve.settings import Limits
from kdserve.serve.tei import Prediction, predictions

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class SearchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A query. Without `index` the first one is meant; `where` is a filter over metadata."""

    query: str
    index: str | None = None
    k: AtLeastOne = 10
    where: str = ""
    min_score: float = -1.0
    lexical: bool = False
    per_language: Annotated[int, msgspec.Meta(ge=0)] = 0
    rerank: Annotated[int, msgspec.Meta(ge=0)] | None = None
    snippets: bool = True


class SnippetBody(msgspec.Struct):
    """The characters [start, end) of a hit's text, and where in the snippet the words of the query stand."""

    text: str
    start: int
    end: int
    highlights: list[tuple[int, int]]


class HitBody(msgspec.Struct):
    """A document that was found; `passage` are the characters of it that `text` is, null for the whole document.

    `sentence` is the one of the text that is nearest to the query, null where the index keeps no sentences.
    """

    id: str | int
    score: float
    text: str
    language: str | None
    metadata: Mapping[str, Cell]
    passage: tuple[int, int] | None
    sentence: Sentence | None
    snippet: SnippetBody | None


class SearchReply(msgspec.Struct):
    """The hits, best first, and the generation of the index that they come from."""

    index: str
    generation: int
    hits: list[HitBody]
    truncated: bool
    took_ms: float


class IndexBody(msgspec.Struct):
    """An index as it stands."""

    name: str
    generation: int
    documents: int
    model: str
    fields: list[str]
    lexical: bool
    sentences: bool


class ClassifyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Texts to classify; `top` labels of each, the likeliest first."""

    texts: str | Annotated[list[str], msgspec.Meta(min_length=1)]
    model: str | None = None
    top: AtLeastOne = 3
    truncate: bool = True


class Classified(msgspec.Struct):
    """The likeliest label of a text, and the next ones; a blank text has none, and probability 0."""

    label: str | None
    probability: float
    labels: list[Prediction]
    truncated: bool


class ClassifyReply(msgspec.Struct):
    """One result a text, in order."""

    model: str
    results: list[Classified]


class Searching:
    """The endpoints, for some models and indexes."""

    def __init__(self, models: Models, indexes: Mapping[str, ServedIndex], limits: Limits) -> None:
        self._models, self._indexes, self._limits = models, indexes, limits

    def endpoints(self) -> list[Endpoint]:
        """List the paths of this part of the API."""

        return [
            Endpoint(
                method="POST", path="/search", summary="Search an index", answer=self.search, takes=SearchRequest,
                gives=SearchReply, refuses=(400, 404, 413, 429, 504), engines=self._models.encoding,
            ),
            Endpoint(
                method="GET", path="/indexes", summary="The indexes", answer=self.list_indexes, gives=list[IndexBody]
            ),
            Endpoint(
                method="POST", path="/classify", summary="Classify texts", answer=self.classify, takes=ClassifyRequest,
                gives=ClassifyReply, refuses=(400, 404, 413, 429, 504), engines=self._models.classifying,
            ),
        ]  # fmt: skip

    async def search(self, call: Call, request: SearchRequest) -> Reply:
        """Answer POST /search."""
        began = time.perf_counter()
        index = find_index(self._indexes, request.index)
        for name, wanted in (("k", request.k), ("rerank", request.rerank)):
            if wanted is not None and wanted > self._limits.hits:
                raise Refusal(
                    "invalid", f"{name} is {wanted}, {self._limits.hits} are allowed; ask for fewer", param=name
                )
        keeps_sentences = index.snapshot.keeps_sentences
        options = SearchOptions(
            k=request.k,
            where=request.where,
            min_score=request.min_score,
            lexical=request.lexical,
            per_language=request.per_language,
            rerank=request.rerank,
        ).settled(keeps_sentences=keeps_sentences)
        asked = await index.encoder.embed([request.query], role="query", truncate=True, on_wait=call.wait)
        words = request.query.lstrip()[:MAX_QUERY_CHARACTERS]
        is_cut = [asked.is_cut[0] or len(request.query.lstrip()) > len(words)]

        def show(hits: Sequence[Hit]) -> list[HitBody]:
            return [_hit(hit, words if request.snippets else None) for hit in hits[: options.k]]

        def find() -> tuple[int, list[HitBody] | Sentences]:
            found = search(index, words, asked.rows, options)
            is_final = keeps_sentences or not (options.rerank and found.hits)
            return found.generation, show(found.hits) if is_final else Sentences(found.hits)

        generation, hits = await index.encoder.batcher.aside(find, call.wait)
        if isinstance(hits, Sentences):
            best = await _nearest(index, hits, asked.rows[0], call)
            hits = await index.encoder.batcher.aside(lambda: show(rerank(best)), call.wait)
        took_ms = round((time.perf_counter() - began) * 1000, 3)
        body = SearchReply(index=index.name, generation=generation, hits=hits, truncated=is_cut[0], took_ms=took_ms)
        return Reply(body=body, headers=[*cut_headers(is_cut), (b"x-index-generation", b"%d" % generation)])

    async def list_indexes(self, call: Call, request: None) -> Reply:
        """Answer GET /indexes."""
        return Reply(body=[_index_body(index) for index in self._indexes.values()])

    async def classify(self, call: Call, request: ClassifyRequest) -> Reply:
        """Answer POST /classify."""
        model = self._models.classifier(request.model)
        texts = [request.texts] if isinstance(request.texts, str) else request.texts
        require_number(len(texts), self._limits.texts)
        answer = await model.classify(texts, truncate=request.truncate, on_wait=call.wait)
        results = [
            Classified(
                label=labels[0].label if labels else None,
                probability=labels[0].score if labels else 0.0,
                labels=labels[: request.top],
                truncated=cut,
            )
            for labels, cut in zip(predictions(model, texts, answer.rows), answer.is_cut, strict=True)
        ]
        return Reply(body=ClassifyReply(model=model.name, results=results), headers=cut_headers(answer.is_cut))


async def _nearest(index: ServedIndex, sentences: Sentences, question_D: Embeddings, call: Call) -> list[Answer]:
    try:
        read = await index.encoder.embed(sentences.texts, role="document", truncate=True, on_wait=call.wait)
    except Refusal as refusal:
        if refusal.kind == "too_large":
            refusal.param = "rerank"
        raise
    return sentences.nearest((read.rows @ question_D).tolist())


def _hit(hit: Hit, query: str | None) -> HitBody:
    snippet = None
    if query is not None:
        made = snippet_of(hit, query)
        snippet = SnippetBody(text=made.text, start=made.start, end=made.end, highlights=list(made.highlights))
    return HitBody(
        id=hit.id,
        score=hit.score,
        text=hit.text,
        language=hit.language,
        metadata=hit.metadata,
        passage=hit.passage,
        sentence=hit.sentence,
        snippet=snippet,
    )


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
        sentences=snapshot.keeps_sentences,
    )
