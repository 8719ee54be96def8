"""Documents in, a segment out: embedded chunk by chunk, with checkpoints that a killed build goes on from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from kdserve.datatypes import Embedder, Progress
from kdserve.errors import DataError, FidelityError, FolderError, KdserveError
from kdserve.manifest import sync_path, write_error
from kdserve.search.choosing import settle
from kdserve.search.documents import Document, Id
from kdserve.search.generation import IndexState, folder_name, publish, step, writer_lock
from kdserve.search.kinship import measure_kin
from kdserve.search.passages import Span, TokenCounter, split_text
from kdserve.search.segment import Segment, SegmentWriter
from kdserve.search.vectors import encode_rows, require_unit_rows

CHUNK_DOCUMENTS = 2048
CHUNK_CHARACTERS = 1_000_000
CHECKPOINT_S = 10.0
RESUME_KEY = "resume key"
NEXT_ID = "next id"
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingest:
    """How documents become rows: who embeds them, which ids are taken, how many there will be (0: unknown).

    Documents of more than `window` tokens are split into passages; 0 leaves them whole. A `query_encoder` is kin whose
    queries are measured at the end of a build.
    """

    encoder: Embedder
    window: int
    query_encoder: Embedder | None = None
    taken: Callable[[Sequence[Id]], Iterable[Id]]
    total: int
    progress: Progress


def build_index(
    folder: Path, documents: Iterable[Document], state: IndexState, ingest: Ingest, *, resume_key: str
) -> None:
    """Write a new index; `state` is its settings, still without a segment.

    The work is done in a folder beside the target. With a `resume_key`, which stands for the same documents in the
    same order and the same settings, a build that was killed goes on from its last checkpoint.

    Raises:
        FolderError: the target exists, another build writes it, or the disk is full. Nothing stays behind.
        DataError: no documents, an id twice, or no kind of index that fits into the memory.
        FidelityError: the recall was not reached. A build with a resume key keeps what it embedded.
    """
    staging = folder.parent / f".{folder.name}.partial"
    _refuse_existing(folder)
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with writer_lock(staging):
            _refuse_existing(folder)
            try:
                _fill(staging, documents, state, ingest, resume_key)
                _refuse_existing(folder)
                staging.rename(folder)
            except FidelityError:  # the vectors stay, so that the same build with another wish need not embed again
                raise
            except (KdserveError, OSError):
                shutil.rmtree(staging, ignore_errors=True)
                raise
            step("index renamed")
            sync_path(folder.parent)
    except OSError as error:
        raise write_error(folder, error) from error


def append_documents(
    writer: SegmentWriter, documents: Iterable[Document], next_id: int, ingest: Ingest, *, resume_key: str = ""
) -> int:
    """Append documents to a segment and return the id counter after them; checkpoints when there is a resume key."""
    last_checkpoint = time.monotonic()
    ingest.progress("index", writer.num_documents, ingest.total)
    for chunk in _chunks_by_size(documents):
        numbered, next_id = _numbered(chunk, next_id)
        for taken in ingest.taken([document.id for document in numbered if document.id is not None]):
            raise DataError(f"id {taken!r} is in the index already; update it, or choose another id")
        spans = [_spans(document.text, ingest) for document in numbered]
        texts = [d.text[start:end] for d, some in zip(numbered, spans, strict=True) for start, end in some]
        vectors = require_unit_rows(ingest.encoder.encode_document(texts), len(texts), ingest.encoder.dim)
        writer.append(numbered, spans, encode_rows(vectors, writer.precision))
        ingest.progress("index", writer.num_documents, ingest.total)
        step("chunk appended")
        if resume_key and time.monotonic() - last_checkpoint >= CHECKPOINT_S:
            writer.checkpoint({RESUME_KEY: resume_key, NEXT_ID: next_id})
            last_checkpoint = time.monotonic()
            step("checkpoint written")
    return next_id


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _fill(staging: Path, documents: Iterable[Document], state: IndexState, ingest: Ingest, resume_key: str) -> None:
    """Make the whole index in `staging`, from its last checkpoint if that has the same resume key."""
    fresh = staging / folder_name(state.generation)
    writer, next_id = _resume(fresh, state, resume_key) or (None, state.next_id)
    if writer is None:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        writer = SegmentWriter(fresh, dim=state.dim, precision=state.precision, lexical=state.lexical)
        writer.checkpoint({RESUME_KEY: resume_key, NEXT_ID: next_id})
    try:
        rest = islice(documents, writer.num_documents, None)
        next_id = append_documents(writer, rest, next_id, ingest, resume_key=resume_key)
        if not writer.num_documents:
            raise DataError(f"there are no texts to index; {staging.name[1:-8]} was not made")
        writer.checkpoint({RESUME_KEY: resume_key, NEXT_ID: next_id})
        step("last checkpoint written")
        record = writer.seal(fresh.name)
    finally:
        writer.close()
    step("segment sealed")
    state = settle(staging, record, replace(state, next_id=next_id), ingest.progress)
    if ingest.query_encoder is not None:
        segment = Segment(staging, record, dim=state.dim, precision=state.precision)
        state = replace(state, kin=(measure_kin(segment, ingest.encoder, ingest.query_encoder),))
    publish(staging, state, None)


def _resume(fresh: Path, state: IndexState, resume_key: str) -> tuple[SegmentWriter, int] | None:
    if not resume_key or not fresh.is_dir():
        return None
    writer = SegmentWriter(fresh, dim=state.dim, precision=state.precision, lexical=state.lexical)
    known = writer.state()
    if known.get(RESUME_KEY) == resume_key and isinstance(next_id := known.get(NEXT_ID), int):
        return writer, next_id
    writer.close()
    return None


def _chunks_by_size(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Chunks of documents that have no more than some texts, and some characters, together."""
    chunk: list[Document] = []
    num_characters = 0
    for document in documents:
        chunk.append(document)
        num_characters += len(document.text)
        if len(chunk) >= CHUNK_DOCUMENTS or num_characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk


def _spans(text: str, ingest: Ingest) -> list[Span]:
    if ingest.window and isinstance(ingest.encoder, TokenCounter):
        return split_text(text, ingest.encoder.count_tokens, ingest.window)
    return [(0, len(text))]


def _numbered(chunk: Sequence[Document], next_id: int) -> tuple[list[Document], int]:
    """Give documents without an id the next numbers; the counter also passes every number that a user chose."""
    numbered = []
    for document in chunk:
        if document.id is None:
            document = replace(document, id=next_id)
        if isinstance(document.id, int):
            next_id = max(next_id, document.id + 1)
        numbered.append(document)
    return numbered, next_id


def _refuse_existing(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise FolderError(f"{folder} exists already; choose another name or remove it first")
