"""The index folder: what is current, and how it changes whole.

    INDEX/
      kdserve.json        the one pointer: the current generation and the SHA-256 of every file that belongs to it
      writer.lock         held by the one writer
      gen-000001/         what the first commit wrote: a segment, and index.json
      gen-000002/         what the second wrote: more segments, marks of deleted rows, its own index.json

A commit writes one new folder, flushes it, and replaces kdserve.json atomically. Folders that the pointer no longer
names are garbage, whoever left them there: the next writer removes them. A reader that met the moment of a change
reads the pointer again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import kdserve
from kdserve.disk import sync_path, sync_tree, write_error
from kdserve.errors import FolderError, RecipeError
from kdserve.locks import folder_lock
from kdserve.manifest import MANIFEST_NAME, FileRecord, Manifest, read_manifest, replace_manifest, verify_file
from kdserve.search.backends.kinds import KINDS, IndexKind, Requirements, Tuning
from kdserve.search.backends.vectors import Precision
from kdserve.search.documents.document import MAX_INT
from kdserve.search.documents.passages import Splitting
from kdserve.search.index.compatibility import CompatibleEncoder
from kdserve.search.index.segment import VECTORS, SegmentRecord
from kdserve.search.index.sentences import SENTENCE_VECTORS
from kdserve.toml import build

STATE = "index.json"
MAX_COUNT = 2**31
Opened = TypeVar("Opened")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexState:
    """Everything that an index knows of itself, as its current generation's index.json holds it.

    `encoder` is the fingerprint that the index is bound to, `encoder_name` the bundle's name or folder, to find it
    again. `next_id` is the counter for documents without an id; it never goes back. `kind` was chosen by what was
    `asked`, for that `reason`; an approximate kind searches as its `tuning` says. Documents of more than `window`
    tokens are split into passages; 0 leaves them whole. `lexical` keeps their words for BM25, `sentences` a vector of
    each sentence. `teacher` is the fingerprint of the encoder's teacher; `kin` are the other encoders whose queries
    were measured.
    """

    generation: int
    kind: IndexKind
    precision: Precision
    dim: int
    encoder: str
    encoder_name: str
    next_id: int
    segments: tuple[SegmentRecord, ...]
    asked: Requirements
    window: int = 0
    lexical: bool = False
    sentences: bool = False
    teacher: str = ""
    kin: tuple[CompatibleEncoder, ...] = ()
    tuning: Tuning | None = None
    reason: str = ""

    @property
    def splitting(self) -> Splitting:
        """How documents are split."""
        return Splitting(window=self.window, sentences=self.sentences)


def read_state(index: Path) -> tuple[Manifest, IndexState]:
    """Read the pointer and the state that it names.

    Raises:
        FolderError: no index there, or a damaged one.
    """
    manifest = read_manifest(index, kind="index")
    generation = manifest.settings.get("generation")
    name = f"{folder_name(generation)}/{STATE}" if isinstance(generation, int) else ""
    if name not in manifest.files:
        raise FolderError(f"{index / MANIFEST_NAME} is damaged: it names no generation; restore the index")
    path = verify_file(index, name, manifest.files[name])
    try:
        state = _parse_state(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError, RecipeError) as error:
        raise FolderError(f"{path} cannot be read ({error}); restore the index or update kdserve") from error
    if state.encoder != manifest.parents.get("encoder"):
        raise FolderError(f"{index / MANIFEST_NAME} is damaged: its encoder is not that of {name}; restore the index")
    if missing := [file for file in files_of(state) if file not in manifest.files]:
        raise FolderError(f"{index / MANIFEST_NAME} is damaged: it does not list {missing[0]}; restore the index")
    return manifest, state


def files_of(state: IndexState) -> list[str]:
    """The files that a generation is made of."""
    names = [f"{folder_name(state.generation)}/{STATE}"]
    for segment in state.segments:
        names += segment.files
    return names


def folder_name(generation: int) -> str:
    """The folder of what a generation's commit wrote."""
    return f"gen-{generation:06d}"


def verify_quick(index: Path, manifest: Manifest) -> None:
    """Check every file but vectors, whose size is checked now and whose blocks are checked when touched."""
    for name, record in manifest.files.items():
        path = index / name
        if path.name not in (VECTORS, SENTENCE_VECTORS):
            verify_file(index, name, record)
        elif not path.is_file() or path.stat().st_size != record.size_bytes:
            raise FolderError(f"{path} has not the {record.size_bytes} bytes of its manifest; restore the index")


def publish(index: Path, state: IndexState, previous: Manifest | None) -> Manifest:
    """Make `state` current. Its new files stand in the folder of its generation already.

    Unchanged files keep the record that `previous` has of them, so that a commit costs what it writes.
    """
    fresh = index / folder_name(state.generation)
    (fresh / STATE).write_text(json.dumps(asdict(state), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    known = previous.files if previous else {}
    files = {name: known[name] if name in known else FileRecord.of(index / name) for name in files_of(state)}
    sync_tree(fresh)
    sync_path(index)
    crash_point("files written")
    manifest = Manifest(
        kind="index",
        made_by=f"kdserve {kdserve.__version__}",
        parents={"encoder": state.encoder},
        settings={"generation": state.generation},
        files=files,
    )
    replace_manifest(index, manifest)
    crash_point("pointer replaced")
    return manifest


def change(index: Path, write: Callable[[Path, IndexState], IndexState], reopen: Callable[[Path], Opened]) -> Opened:
    """Commit one change: `write(folder, state)` fills the new generation's folder and returns the new state.

    After the commit, `reopen` opens what is now current; if it cannot, the generation before becomes current again.

    Raises:
        FolderError: another writer, a damaged index, a full disk. The index is then as it was.
    """
    read_manifest(index, kind="index")
    with folder_lock(index):
        manifest, state = read_state(index)
        remove_garbage(index, state)
        fresh = index / folder_name(state.generation + 1)
        try:
            fresh.mkdir()
            crash_point("folder made")
            publish(index, write(fresh, replace(state, generation=state.generation + 1)), manifest)
            try:
                return reopen(index)
            except FolderError:
                replace_manifest(index, manifest)
                raise
        except OSError as error:
            raise write_error(index, error) from error
        finally:
            remove_garbage(index, read_state(index)[1])


def remove_garbage(index: Path, state: IndexState) -> None:
    """Remove what the current generation does not name; only for the holder of the lock."""
    (index / f"{MANIFEST_NAME}.new").unlink(missing_ok=True)
    current = {name.split("/")[0] for name in files_of(state)}
    for folder in sorted(index.glob("gen-*")):
        if folder.name not in current:
            shutil.rmtree(folder)
            crash_point("garbage removed")


def crash_point(name: str) -> None:
    """Mark a moment between two durable writes. It does nothing; crash trials put a death in its place."""


def _parse_state(record: object) -> IndexState:
    """Raises RecipeError or ValueError where it is none."""
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    state: IndexState = build(IndexState, record, where=STATE)
    counts = [state.generation, state.dim, *(segment.num_documents for segment in state.segments)]
    if state.tuning:
        counts += [state.tuning.effort, state.tuning.candidates]
    if min(counts) < 1 or max(counts) > MAX_COUNT or not 0 <= state.next_id <= MAX_INT or state.window < 0:
        raise ValueError("a number in it is out of range")
    if any(not segment.num_documents <= segment.num_rows <= MAX_COUNT for segment in state.segments):
        raise ValueError("a segment has fewer rows than documents")
    if any(not 0 <= segment.num_sentences <= MAX_COUNT * state.sentences for segment in state.segments):
        raise ValueError("a segment has sentences that it cannot have")
    if any(segment.approximate for segment in state.segments) and not KINDS[state.kind].approximate:
        raise ValueError(f"an index of kind {state.kind} has no compressed vectors")
    return state
