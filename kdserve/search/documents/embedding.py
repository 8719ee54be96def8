"""Documents to passages to vectors, chunk by chunk."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kdserve.datatypes import Embedder, Embeddings
from kdserve.runtime import Encoder
from kdserve.search.backends.vectors import require_unit_rows
from kdserve.search.documents.document import Document
from kdserve.search.documents.passages import Span, Splitting, TokenCounter, split_text
from kdserve.search.documents.sentences import split_sentences

_logger = logging.getLogger("kdserve")
PASSAGES_AT_ONCE = 4096
CHUNK_DOCUMENTS = 2048
CHUNK_CHARACTERS = 1_000_000
STRETCH_CHARACTERS = 200_000
"""Longer documents are cut into stretches before they are split, so that memory stays small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Documents, the spans of their passages, and the vectors (N, D) of all passages in order.

    Where they are wanted, `sentences` has for each of those N where its sentences stand in it, none for one that is a
    single sentence, and `sentence_vectors` (S, D) has those of all in order.
    """

    documents: Sequence[Document]
    spans: Sequence[Sequence[Span]]
    vectors: Embeddings
    sentences: Sequence[Sequence[Span]]
    sentence_vectors: Embeddings


def embed_documents(documents: Iterable[Document], encoder: Embedder, splitting: Splitting) -> Iterator[Embedded]:
    """Embed documents in chunks, split as asked for.

    Raises:
        TypeError: one is no `Document`.
        EncodeError: the encoder gave a vector that is no unit vector.
    """
    for chunk in chunks_by_size(documents):
        yield embed_chunk(chunk, encoder, splitting)


def embed_chunk(documents: Sequence[Document], encoder: Embedder, splitting: Splitting) -> Embedded:
    """Embed some documents at once."""
    spans: list[list[Span]] = []

    def passages() -> Iterator[list[str]]:
        for document in documents:
            spans.append(_spans(document.text, encoder, splitting.window))
            yield [document.text[start:end] for start, end in spans[-1]]

    vectors = require_unit_rows(_embed(passages(), encoder), sum(map(len, spans)), encoder.dim)
    sentences: list[list[Span]] = [[] for _ in vectors]
    sentence_vectors: Embeddings = np.empty((0, encoder.dim), np.float32)
    if splitting.sentences:
        pairs = zip(documents, spans, strict=True)
        texts = [document.text[start:end] for document, some in pairs for start, end in some]
        sentences = [_several(split_sentences(text)) for text in texts]
        if parts := [text[start:end] for text, some in zip(texts, sentences, strict=True) for start, end in some]:
            sentence_vectors = require_unit_rows(_embed([parts], encoder), len(parts), encoder.dim)
    return Embedded(
        documents=documents, spans=spans, vectors=vectors, sentences=sentences, sentence_vectors=sentence_vectors
    )


def _several(sentences: list[Span]) -> list[Span]:
    """The sentences of a passage, but of one that is a single sentence, of which its own vector tells."""
    return sentences if len(sentences) > 1 else []


def _embed(texts: Iterable[list[str]], encoder: Embedder) -> Embeddings:
    """Embed texts that come some at a time, in order."""
    if isinstance(encoder, Encoder):
        return _embed_with_words_in_mind(texts, encoder)
    return encoder.encode_document([text for some in texts for text in some])


def _embed_with_words_in_mind(passages: Iterable[list[str]], encoder: Encoder) -> Embeddings:
    """Tokenize the passages of each document at once, while the tokenizer remembers the words that were counted to cut
    it, and embed those of many together.
    """
    vectors: list[Embeddings] = []
    waiting: list[list[int]] = []
    num_cut = num_passages = 0
    for document in passages:
        for start in range(0, len(document), PASSAGES_AT_ONCE):
            tokenized = encoder.tokenize(document[start : start + PASSAGES_AT_ONCE], role="document")
            num_cut += sum(tokenized.is_cut)
            waiting += tokenized.ids
            if len(waiting) >= PASSAGES_AT_ONCE:
                vectors.append(encoder.encode_tokens(waiting))
                waiting.clear()
        num_passages += len(document)
    vectors.append(encoder.encode_tokens(waiting))
    if num_cut:
        _logger.warning("%d of %d passages were cut at %d tokens", num_cut, num_passages, encoder.max_tokens)
    return np.concatenate(vectors)


def chunks_by_size(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Chunks of documents that have no more than some texts, and some characters, together."""
    chunk: list[Document] = []
    num_characters = 0
    for document in documents:
        if not isinstance(document, Document):
            raise TypeError(f"got {type(document).__name__} for a document; make one: Document(text=…)")
        chunk.append(document)
        num_characters += len(document.text)
        if len(chunk) >= CHUNK_DOCUMENTS or num_characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk


def first_passages(texts: Sequence[str], encoder: Embedder, *, window: int) -> list[str]:
    """The first passage of each text, as it is embedded."""
    return [text[slice(*_spans(text, encoder, window)[0])] for text in texts]


def _spans(text: str, encoder: Embedder, window: int) -> list[Span]:
    whole = [(0, len(text))]
    if window and isinstance(encoder, TokenCounter):
        return [
            (begin + start, begin + end)
            for begin, stretch in _stretches(text)
            for start, end in split_text(stretch, encoder.count_tokens, window)
        ] or whole  # a blank text
    return whole


def _stretches(text: str) -> Iterator[tuple[int, str]]:
    """Parts of a text that are not blank, and where they begin; they end at a line or a word where there is one."""
    start = 0
    while start < len(text):
        stop = start + STRETCH_CHARACTERS
        if stop < len(text):
            half = start + STRETCH_CHARACTERS // 2
            ends = (text.rfind(end, half, stop) + 1 for end in ("\n", " "))
            stop = next(filter(None, ends), stop)
        if text[start:stop].strip():
            yield start, text[start:stop]
        start = stop
