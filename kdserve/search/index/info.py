"""Facts about an index, and whether it is whole; neither needs the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdserve.errors import FolderError
from kdserve.manifest import Manifest, verify_file
from kdserve.search.backends.kinds import Tuning
from kdserve.search.index.compatibility import CompatibleEncoder
from kdserve.search.index.fields import field_kinds
from kdserve.search.index.generation import IndexState
from kdserve.search.index.snapshot import Snapshot, read_current


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexInfo:
    """The facts that `kdserve index info` prints; `sentences` are those whose vectors are kept.

    `field_types` says what each field of the metadata holds: text, number or list, or several. `deleted_rows` still
    take space, and rows added to an approximate index are searched exactly, until it is compacted.
    """

    folder: str
    kind: str
    reason: str
    tuning: Tuning | None
    precision: str
    dim: int
    documents: int
    rows: int
    deleted_rows: int
    sentences: int
    segments: int
    generation: int
    encoder: str
    encoder_name: str
    kin: tuple[CompatibleEncoder, ...]
    size_bytes: int
    fields: tuple[str, ...]
    field_types: Mapping[str, str]


def describe(folder: str | Path) -> IndexInfo:
    """Open an index and say what it holds.

    Raises:
        FolderError: no index there, or a damaged one.
    """
    folder = Path(folder)
    return read_current(folder, lambda manifest, state: _describe(folder, manifest, state))


def _describe(folder: Path, manifest: Manifest, state: IndexState) -> IndexInfo:
    snapshot = Snapshot(folder, manifest, state, exact=True)
    segments = snapshot.segments
    types = field_kinds(segments)
    return IndexInfo(
        folder=str(folder),
        kind=state.kind,
        reason=state.reason,
        tuning=state.tuning,
        precision=state.precision,
        dim=state.dim,
        documents=snapshot.num_documents,
        rows=sum(segment.num_rows for segment in segments),
        deleted_rows=sum(0 if segment.live is None else int((~segment.live).sum()) for segment in segments),
        sentences=sum(segment.record.num_sentences for segment in segments),
        segments=len(segments),
        generation=state.generation,
        encoder=state.encoder,
        encoder_name=state.encoder_name,
        kin=state.kin,
        size_bytes=sum(record.size_bytes for record in manifest.files.values()),
        fields=tuple(types),
        field_types=types,
    )


def encoder_name(folder: str | Path) -> str:
    """The name or folder of the bundle that an index was built with.

    Raises:
        FolderError: no index there, or a damaged one, or one built in Python without a name.
    """
    name = read_current(Path(folder), lambda _, state: state.encoder_name)
    if not name:
        raise FolderError(f"{folder} does not say which bundle it was built with; name it with --bundle")
    return name


def verify_index(folder: str | Path) -> int:
    """Check every byte of an index, and that its files fit together; return the number of files.

    Raises:
        FolderError: what is wrong, at the first thing that is.
    """
    folder = Path(folder)
    return read_current(folder, lambda manifest, state: _verify(folder, manifest, state))


def _verify(folder: Path, manifest: Manifest, state: IndexState) -> int:
    for name, record in manifest.files.items():
        verify_file(folder, name, record)
    exact = not any(record.approximate for record in state.segments)
    snapshot = Snapshot(folder, manifest, state, exact=exact)
    for segment in snapshot.segments:
        segment.vectors.slice(0, segment.num_rows)
        if segment.sentences is not None:
            segment.sentences.vectors.slice(0, segment.record.num_sentences)
        next_row = 0
        for number, document in enumerate(segment.stored.scan()):
            if (document.doc, document.first_row) != (number, next_row):
                raise FolderError(f"{segment.stored.path} loses count at document {number}; build the index again")
            next_row += document.num_rows
        if next_row != segment.num_rows:
            raise FolderError(
                f"{segment.stored.path} has {next_row} passages for {segment.num_rows} vectors; build again"
            )
    return len(manifest.files)
