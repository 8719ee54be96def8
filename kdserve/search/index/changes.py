"""The life of an index: add, delete, update, compact. Each is one commit, or nothing, and gives back what it opened.

New documents go to a new segment. When the segments before it are small, they are merged with it, so that there stay
few however often one adds (the logarithmic method of Bentley and Saxe, 1980). Deleted rows are marked, and dropped
when their segment is next rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from kdserve.datatypes import Progress, no_progress
from kdserve.errors import DataError, FolderError
from kdserve.search.backends.kinds import Requirements
from kdserve.search.documents.chunks import chunks
from kdserve.search.documents.document import Document, Id, NewMetadata, require_id
from kdserve.search.documents.embedding import embed_documents
from kdserve.search.index.build import Ingest, append_documents
from kdserve.search.index.document_file import StoredDocument
from kdserve.search.index.generation import IndexState, change, crash_point, files_of
from kdserve.search.index.segment import Segment, SegmentRecord, SegmentWriter, write_bits
from kdserve.search.index.snapshot import Snapshot, open_snapshot
from kdserve.search.index.tuning import choose_kind

MERGE_LIMIT_ROWS = 262_144
"""Larger segments are only rewritten by `compact`."""
COPY_DOCUMENTS = 1024

Found = Sequence[tuple[int, StoredDocument]]
Reopen = Callable[[Path], Snapshot]


def add_documents(
    index: Path,
    documents: Iterable[Document | NewMetadata],
    ingest: Ingest,
    *,
    update: bool,
    reopen: Reopen = open_snapshot,
) -> Snapshot:
    """Add documents; those with an id that is in the index replace it (`update`) or are an error.

    New metadata, which only an update may have, makes a document of the old text and vectors.

    Raises:
        DataError: no documents, an id twice, or new metadata for an id that is not in the index.
        FolderError: another writer, another encoder, a damaged index, or a full disk. The index is then as it was.
    """

    def write(fresh: Path, state: IndexState) -> IndexState:
        if state.encoder != ingest.encoder.fingerprint:
            raise FolderError(
                f"{index} takes documents only from the encoder that built it, {state.encoder[:12]}; open it so"
            )
        snapshot = open_snapshot(index, exact=True)
        replaced: list[tuple[int, StoredDocument]] = []

        def taken(ids: Sequence[Id]) -> Iterable[Id]:
            found = snapshot.find(ids)
            replaced.extend(found if update else [])
            return () if update else [document.id for _, document in found]

        writer = SegmentWriter(fresh, dim=state.dim, precision=state.precision, lexical=state.lexical)
        try:
            embedded = embed_documents(
                _whole_ones(index, documents, snapshot, writer, replaced, update=update),
                ingest.encoder,
                state.splitting,
            )
            next_id = append_documents(
                writer, embedded, state.next_id, total=ingest.total, progress=ingest.progress, taken=taken
            )
            if not writer.num_documents:
                raise DataError(f"there are no documents to add; {index} was left as it was")
            record = writer.seal(fresh.name)
        finally:
            writer.close()
        crash_point("segment sealed")
        segments = [*_mark_deleted(fresh, snapshot.segments, replaced), record]
        state = replace(state, next_id=next_id, segments=tuple(segments))
        return _merge_small(index, fresh, state, ingest.progress)

    return change(index, write, reopen)


def delete_documents(index: str | Path, ids: Sequence[Id], *, reopen: Reopen = open_snapshot) -> Snapshot:
    """Delete the documents with these ids; all of them may be.

    Raises:
        DataError: what is no id, or is not in the index; nothing is deleted then.
        FolderError: another writer, a damaged index, or a full disk. The index is then as it was.
    """
    index = Path(index)
    for id_ in ids:
        require_id(id_)

    def write(fresh: Path, state: IndexState) -> IndexState:
        snapshot = open_snapshot(index, exact=True)
        found = snapshot.find(ids)
        known = {document.id for _, document in found}
        if missing := [id_ for id_ in ids if id_ not in known]:
            raise DataError(f"{index} has no document {missing[0]!r}; nothing was deleted")
        segments = _mark_deleted(fresh, snapshot.segments, found)
        crash_point("rows marked")
        return replace(state, segments=tuple(segments))

    return change(index, write, reopen)


def compact_index(
    index: str | Path,
    *,
    requirements: Requirements | None = None,
    progress: Progress = no_progress,
    reopen: Reopen = open_snapshot,
) -> Snapshot:
    """Rewrite the index as one segment without its deleted documents. Ids, texts and vectors stay as they are.

    The kind is chosen anew, by the `requirements`, or by those that the index was built with.

    Raises:
        FolderError: another writer, a damaged index, or a full disk. The index is then as it was.
    """
    index = Path(index)

    def write(fresh: Path, state: IndexState) -> IndexState:
        segments = open_snapshot(index, exact=True).segments
        record = _merge(segments, fresh, fresh.name, state, progress)
        state = replace(state, asked=requirements or state.asked)
        return choose_kind(index, record, state, progress) if record else replace(state, segments=())

    return change(index, write, reopen)


def _whole_ones(
    index: Path,
    documents: Iterable[Document | NewMetadata],
    snapshot: Snapshot,
    writer: SegmentWriter,
    replaced: list[tuple[int, StoredDocument]],
    *,
    update: bool,
) -> Iterator[Document]:
    """The documents; those of which only the metadata is new are written on the way, and counted as replaced.

    Raises:
        TypeError: one is new metadata, and this is no update.
    """
    new: dict[Id, NewMetadata] = {}

    def write() -> None:
        found = snapshot.find(list(new))
        if absent := new.keys() - {stored.id for _, stored in found}:
            raise DataError(f"{index} has no document {min(absent, key=str)!r}, and no text for it came; give its text")
        for number, segment in enumerate(snapshot.segments):
            if some := [stored for place, stored in found if place == number]:
                _copy(segment, some, writer, new)
        replaced.extend(found)
        new.clear()

    for document in documents:
        if not isinstance(document, NewMetadata):
            yield document
            continue
        if not update:
            raise TypeError(f"new metadata for {document.id!r} is no document to add; use update")
        if document.id in new:
            raise DataError(f"id {document.id!r} occurs twice; ids must be unique, fix the texts")
        new[document.id] = document
        if len(new) >= COPY_DOCUMENTS:
            write()
    write()


def _mark_deleted(fresh: Path, segments: Sequence[Segment], found: Found) -> list[SegmentRecord]:
    """The records of the segments, with the found documents marked; without segments that have nothing left."""
    records = []
    for number, segment in enumerate(segments):
        docs = [document.doc for place, document in found if place == number]
        record = segment.record
        if docs:
            deleted = segment.rows_of(np.asarray(docs, np.int64))
            if segment.live is not None:
                deleted |= ~segment.live
            if deleted.all():
                continue
            path = fresh / f"deleted-{number:06d}.bits"
            write_bits(path, deleted)
            record = replace(record, deleted=f"{fresh.name}/{path.name}")
        records.append(record)
    return records


def _merge_small(index: Path, fresh: Path, state: IndexState, progress: Progress) -> IndexState:
    """Merge the last segment with those before it that are at most as large as all after them together."""
    records, num_rows, first = state.segments, 0, len(state.segments)
    for number, record in reversed(list(enumerate(records))):
        large = record.approximate or record.num_rows > MERGE_LIMIT_ROWS
        if large or (number < len(records) - 1 and record.num_rows > num_rows):
            break
        num_rows += record.num_rows
        first = number
    if first >= len(records) - 1:
        return state
    segments = [Segment(index, record, dim=state.dim, precision=state.precision) for record in records[first:]]
    merged = fresh / "merged"
    merged.mkdir()
    whole = _merge(segments, merged, f"{fresh.name}/{merged.name}", state, progress)
    state = replace(state, segments=(*records[:first], *([whole] if whole else [])))
    needed = set(files_of(state))
    for path in [path for path in fresh.iterdir() if path.is_file() and f"{fresh.name}/{path.name}" not in needed]:
        path.unlink()
    crash_point("segments merged")
    return state


def _merge(
    segments: Sequence[Segment], target: Path, name: str, state: IndexState, progress: Progress
) -> SegmentRecord | None:
    """Write the live documents of some segments to one, in their order; None where there are none."""
    writer = SegmentWriter(target, dim=state.dim, precision=state.precision, lexical=state.lexical)
    total = sum(segment.record.num_documents for segment in segments)
    try:
        for segment in segments:
            for documents in chunks(_live_documents(segment), COPY_DOCUMENTS):
                _copy(segment, documents, writer)
                progress("merge", writer.num_documents, total)
                crash_point("documents copied")
        if writer.num_documents:
            return writer.seal(name)
    finally:
        writer.close()
    for path in target.iterdir():
        path.unlink()
    return None


def _live_documents(segment: Segment) -> Iterator[StoredDocument]:
    return (document for document in segment.stored.scan() if segment.is_live(document))


def _copy(
    segment: Segment,
    documents: Sequence[StoredDocument],
    writer: SegmentWriter,
    new: Mapping[Id, NewMetadata] = MappingProxyType({}),
) -> None:
    """Append documents of a segment, with the new metadata of those ids that have some."""
    ranges = [range(document.first_row, document.first_row + document.num_rows) for document in documents]
    rows = np.concatenate([np.arange(some.start, some.stop) for some in ranges])
    spans = [segment.passages[some.start : some.stop, 1:].tolist() for some in ranges]
    copies = []
    for stored in documents:
        language, metadata = stored.language, stored.metadata
        if stored.id in new:
            language = new[stored.id].language or language
            changed = {**metadata, **new[stored.id].metadata}
            metadata = {name: value for name, value in changed.items() if value is not None}
        copies.append(Document(text=stored.text, id=stored.id, language=language, metadata=metadata))
    writer.append(copies, spans, segment.vectors.encoded(rows), segment.sentences_of(rows))
