"""Documents in, a segment out: embedded chunk by chunk, with checkpoints that a killed build goes on from."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from kdserve.datatypes import Embedder, Progress, no_progress
from kdserve.disk import sync_path, write_error
from kdserve.errors import DataError, EncodeError, FidelityError
from kdserve.locks import folder_lock
from kdserve.manifest import MANIFEST_NAME
from kdserve.search.backends.vectors import encode_rows
from kdserve.search.documents.document import Document, Id, number_documents
from kdserve.search.documents.embedding import Embedded, embed_documents
from kdserve.search.documents.shards import SharedDocuments
from kdserve.search.index.compatibility import measure_compatible
from kdserve.search.index.document_file import DocumentWriter
from kdserve.search.index.generation import IndexState, crash_point, folder_name, publish
from kdserve.search.index.parts import read_parts, write_parts
from kdserve.search.index.segment import ROWS, Segment, SegmentRecord, SegmentWriter
from kdserve.search.index.sentences import SentenceRows
from kdserve.search.index.snapshot import read_current
from kdserve.search.index.tuning import choose_kind
from kdserve.staging import require_new

_logger = logging.getLogger("kdserve")
CHECKPOINT_S = 10.0
RESUME_KEY = "resume key"
SETTINGS = "settings"
NEXT_ID = "next id"
PARTS = "parts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingest:
    """How documents become rows: who embeds them, and how many there will be (0: unknown)."""

    encoder: Embedder
    total: int
    progress: Progress


def build_index(
    folder: Path,
    documents: Iterable[Document] | SharedDocuments,
    state: IndexState,
    ingest: Ingest,
    *,
    resume_key: str,
    query_encoder: Embedder | None = None,
) -> None:
    """Write a new index; `state` is its settings, still without a segment. Workers embed the documents that they share.

    The work is done in a folder beside the target. With a `resume_key`, which stands for the same documents in the
    same order, a build of the same settings that was killed goes on from its last checkpoint, and one that was done is
    left as it is. The recall of a `query_encoder`, the encoder's teacher or student, is measured at the end.

    Raises:
        FolderError: the target exists, another build writes it, or the disk is full. Nothing stays behind.
        DataError: no documents, an id twice, or no kind of index that fits into the memory.
        FidelityError: the recall was not reached. A build with a resume key keeps what it embedded.
        EncodeError: the encoder failed, or workers were lost ever again. What was embedded is kept likewise.
    """
    staging = folder.parent / f".{folder.name}.partial"
    try:
        if _is_built(folder, state, resume_key, query_encoder):
            _logger.warning("%s was built from the same files before, and is left as it is", folder)
            return
        require_new(folder)
        staging.mkdir(parents=True, exist_ok=True)
        with folder_lock(staging):
            require_new(folder)
            try:
                _fill(staging, documents, state, ingest, resume_key, query_encoder)
                require_new(folder)
                staging.rename(folder)
            except BaseException as error:
                if not (resume_key and isinstance(error, FidelityError | EncodeError | KeyboardInterrupt)):
                    shutil.rmtree(staging, ignore_errors=True)
                raise
            crash_point("index renamed")
            sync_path(folder.parent)
    except OSError as error:
        raise write_error(folder, error) from error


def append_documents(
    writer: SegmentWriter,
    embedded: Iterable[Embedded],
    next_id: int,
    *,
    total: int,
    progress: Progress,
    taken: Callable[[Sequence[Id]], Iterable[Id]] = lambda _: (),
    resume_key: str = "",
) -> int:
    """Append documents to a segment and return the id counter after them; checkpoints when there is a resume key.

    Raises:
        DataError: one of the ids is `taken`, or comes twice.
    """
    last_checkpoint = time.monotonic()
    progress("index", writer.num_documents, total)
    for chunk in embedded:
        for id_ in taken([document.id for document in chunk.documents if document.id is not None]):
            raise DataError(f"id {id_!r} is in the index already; update it, or choose another id")
        numbered, next_id = number_documents(chunk.documents, next_id)
        sentences = SentenceRows.encoded(chunk.sentences, chunk.sentence_vectors)
        writer.append(numbered, chunk.spans, encode_rows(chunk.vectors, writer.precision), sentences)
        progress("index", writer.num_documents, total)
        crash_point("chunk appended")
        if resume_key and time.monotonic() - last_checkpoint >= CHECKPOINT_S:
            writer.checkpoint({RESUME_KEY: resume_key, NEXT_ID: next_id})
            last_checkpoint = time.monotonic()
            crash_point("checkpoint written")
    return next_id


def write_segment(
    fresh: Path,
    embedded_after: Callable[[int], Iterator[Embedded]],
    state: IndexState,
    *,
    total: int,
    progress: Progress,
    resume_key: str,
) -> tuple[SegmentRecord, int]:
    """Write a segment, from its last checkpoint if that has the same resume key and settings, and return the id counter
    after it.

    `embedded_after` gives what comes after so many documents. Raises as `append_documents`.
    """
    writer, next_id = _resume(fresh, state, resume_key) or (None, state.next_id)
    if writer is None:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        writer = SegmentWriter(fresh, dim=state.dim, precision=state.precision, lexical=state.lexical)
        writer.checkpoint({RESUME_KEY: resume_key, SETTINGS: _settings_of(state), NEXT_ID: next_id})
    try:
        embedded = embedded_after(writer.num_documents)
        next_id = append_documents(writer, embedded, next_id, total=total, progress=progress, resume_key=resume_key)
        if not writer.num_documents:
            raise DataError("there are no texts to index; give at least one that is not blank")
        writer.checkpoint({RESUME_KEY: resume_key, NEXT_ID: next_id})
        crash_point("last checkpoint written")
        return writer.seal(fresh.name), next_id
    finally:
        writer.close()


def _fill(
    staging: Path,
    documents: Iterable[Document] | SharedDocuments,
    state: IndexState,
    ingest: Ingest,
    resume_key: str,
    query_encoder: Embedder | None,
) -> None:
    """Make the whole index in `staging`, from what a build with the same resume key left there."""
    fresh = staging.absolute() / folder_name(state.generation)
    if isinstance(documents, SharedDocuments):
        written = _write_shared(fresh, documents, state, ingest, resume_key)
    else:
        some = documents
        written = write_segment(
            fresh,
            lambda num_known: embed_documents(islice(some, num_known, None), ingest.encoder, state.splitting),
            state,
            total=ingest.total,
            progress=ingest.progress,
            resume_key=resume_key,
        )
    record, next_id = written
    crash_point("segment sealed")
    state = choose_kind(staging, record, replace(state, next_id=next_id), ingest.progress)
    if query_encoder is not None:
        segment = Segment(staging, record, dim=state.dim, precision=state.precision)
        state = replace(state, kin=(measure_compatible(segment, ingest.encoder, query_encoder),))
    publish(staging, state, None)
    shutil.rmtree(staging / PARTS, ignore_errors=True)  # not before: a recall may be missed, and asked for lower


def _write_shared(
    fresh: Path, documents: SharedDocuments, state: IndexState, ingest: Ingest, resume_key: str
) -> tuple[SegmentRecord, int]:
    """Let workers write the parts of a segment, and one of them the segment."""
    parts = fresh.parent / PARTS
    key = f"{resume_key}\n{_settings_of(state)}"
    known = parts / (hashlib.sha256(key.encode()).hexdigest() if resume_key else "no key")
    if not (resume_key and known.is_dir()):
        shutil.rmtree(parts, ignore_errors=True)
        known.mkdir(parents=True)
    paths = write_parts(documents, known, ingest.encoder, state.splitting, progress=ingest.progress)
    return documents.workers.once(
        partial(
            write_segment,
            fresh,
            partial(read_parts, paths),
            state,
            total=0,
            progress=no_progress,
            resume_key=resume_key,
        )
    )


def _resume(fresh: Path, state: IndexState, resume_key: str) -> tuple[SegmentWriter, int] | None:
    if not resume_key or not fresh.is_dir():
        return None
    with closing(DocumentWriter(fresh / ROWS, lexical=state.lexical)) as rows:
        known = rows.state()
    if known.get(RESUME_KEY) != resume_key or known.get(SETTINGS) != _settings_of(state):
        return None
    next_id = known[NEXT_ID]
    assert isinstance(next_id, int)
    return SegmentWriter(fresh, dim=state.dim, precision=state.precision, lexical=state.lexical), next_id


def _settings_of(state: IndexState) -> str:
    """What the rows of a segment depend on beside its documents."""
    return f"{state.encoder} {state.precision} {state.dim} {state.window} {state.lexical} {state.sentences}"


def _is_built(folder: Path, state: IndexState, resume_key: str, query_encoder: Embedder | None) -> bool:
    """Whether there is an index already that this build would give, and that was not changed since."""
    if not resume_key or not (folder / MANIFEST_NAME).is_file():
        return False
    there = read_current(folder, lambda _, state: state)
    chosen = {name: getattr(there, name) for name in ("kind", "next_id", "segments", "kin", "tuning", "reason")}
    if replace(state, **chosen) != there or len(there.segments) != 1:
        return False
    wanted = () if query_encoder is None else (query_encoder.fingerprint,)
    rows = Segment(folder, there.segments[0], dim=there.dim, precision=there.precision).stored
    return tuple(kin.encoder for kin in there.kin) == wanted and rows.state().get(RESUME_KEY) == resume_key
