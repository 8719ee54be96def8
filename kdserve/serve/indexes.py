"""The indexes that a server has open. A newer generation is opened and verified aside, then takes the place of the old
one, which is let go by its last reader."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock

from kdserve.datatypes import Hit, no_progress
from kdserve.errors import DataError, FolderError, KdserveError, RecipeError
from kdserve.manifest import MANIFEST_NAME
from kdserve.search import Document, Id, NewMetadata, delete_documents, encoder_name, open_snapshot
from kdserve.search.index.build import Ingest
from kdserve.search.index.changes import add_documents
from kdserve.search.index.compatibility import require_compatible
from kdserve.search.index.snapshot import Snapshot, open_for
from kdserve.search.query.ranking import SearchOptions, answer, candidates
from kdserve.serve.models import ServedEncoder
from kdserve.serve.refusals import Refusal
from kdserve.serve.tickets import Rows

_logger = logging.getLogger("kdserve.serve")


@dataclass(eq=False, kw_only=True, slots=True)
class ServedIndex:
    """An index with the encoder that asks it. `snapshot` is what is current; a request keeps the one it began with.

    `is_broken` since a search could not read its files, until they are opened again; `fault` is what the log was told
    last of why they, or those of a newer state, cannot be.
    """

    name: str
    folder: Path
    encoder: ServedEncoder
    snapshot: Snapshot
    pointer: tuple[int, int, int]
    is_broken: bool = False
    fault: str = ""
    changing: Lock = field(default_factory=Lock)

    @property
    def generation(self) -> int:
        """Return the number of the current generation."""
        return self.snapshot.state.generation

    def refresh(self, *, force: bool = False) -> bool:
        """Open a newer generation if there is one, and say whether there was. Blocks; not for the event loop.

        What cannot be opened is logged, once, and what was current stays.
        """
        with self.changing:
            try:
                pointer = _pointer(self.folder)
                if pointer == self.pointer and not force and not self.is_broken:
                    self.fault = ""
                    return False
                snapshot = self._open(self.folder)
            except (KdserveError, OSError) as error:
                if force or str(error) != self.fault:
                    self.fault = str(error)
                    _logger.error(
                        "the newer state of an index cannot be opened; the old one stays",
                        extra={"index": self.name, "generation": self.generation, "error": self.fault},
                    )
                return False
            newer = snapshot.manifest != self.snapshot.manifest
            self.snapshot, self.pointer, self.is_broken, self.fault = snapshot, pointer, False, ""
        if newer:
            _logger.info("took a new generation", extra={"index": self.name, "generation": self.generation})
        return newer

    def add(self, documents: Sequence[Document | NewMetadata], *, update: bool) -> None:
        """Add documents, or put them in the place of those with the same ids, in one commit; an update may also be of
        metadata alone. Blocks, as `refresh`.

        Raises:
            Refusal: another process is writing, the disk is full, or the index cannot be written or takes no documents
                from this encoder.
            DataError: no documents, an id that is there already or occurs twice, or new metadata for one that is not.
        """
        ingest = Ingest(encoder=self.encoder.encoder, total=len(documents), progress=no_progress)
        self._change(lambda: add_documents(self.folder, documents, ingest, update=update, reopen=self._open))

    def delete(self, ids: Sequence[Id]) -> None:
        """Delete documents, in one commit. Blocks, as `refresh`.

        Raises:
            Refusal: another process is writing, the disk is full, or the index cannot be written or is another now.
            DataError: an id that is not there; nothing is deleted then.
        """
        self._change(lambda: delete_documents(self.folder, ids, reopen=self._open))

    def _open(self, folder: Path) -> Snapshot:
        return open_for(folder, self.encoder.encoder)

    def _change(self, change: Callable[[], Snapshot]) -> None:
        with self.changing:
            try:
                self.snapshot = change()
            except (FolderError, DataError) as error:
                message = str(error).replace(str(self.folder), self.name)  # where it lies is nobody's business
                if isinstance(error, DataError):
                    raise DataError(message) from error
                _logger.warning("an index was not changed", extra={"index": self.name, "error": str(error)})
                raise Refusal("full" if _is_full(error) else "conflict", message) from error
            self.pointer = _pointer(self.folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The hits for a query, and the generation that they came from."""

    hits: list[Hit]
    generation: int


def search(index: ServedIndex, query: str, vector: Rows, options: SearchOptions) -> Found:
    """Look a query up that is embedded already: `vector` (1, D). Where the index keeps no sentences, hits are not
    ordered anew yet.

    Raises:
        Refusal: the filter cannot be, or the index was built without words and they are asked for.
        FolderError: the index cannot be read.
    """
    snapshot = index.snapshot
    try:
        find = partial(answer, snapshot, [query], vector)
        hits = (find(options) if snapshot.keeps_sentences else candidates(options, find))[0]
    except DataError as error:
        no_words = options.lexical and not snapshot.state.lexical
        raise Refusal("invalid", str(error), param="lexical" if no_words else "where") from error
    except FolderError:
        index.is_broken = index.is_broken or snapshot is index.snapshot
        raise
    return Found(hits=hits, generation=snapshot.state.generation)


def open_indexes(
    folders: Sequence[str], encoders: list[ServedEncoder], open_encoder: Callable[[str], ServedEncoder]
) -> dict[str, ServedIndex]:
    """Open indexes by the names of their folders, `notes` for `notes.index`.

    One that no encoder here fits brings the one that it was built with, which is added to `encoders`.

    Raises:
        FolderError: no index, or a damaged one, or no encoder that fits.
        RecipeError: two indexes of one name.
    """
    indexes: dict[str, ServedIndex] = {}
    for given in folders:
        folder = Path(given)
        name = folder.resolve().stem
        if name in indexes:
            raise RecipeError(f"two indexes are called {name}; rename one of the folders")
        pointer = _pointer(folder)
        snapshot = open_snapshot(folder)
        encoder = next((one for one in encoders if _fits(folder, snapshot, one)), None)
        if encoder is None:
            encoder = open_encoder(encoder_name(folder))
            require_compatible(folder, snapshot.state.encoder, snapshot.state.teacher, encoder.encoder)
            encoders.append(encoder)
        indexes[name] = ServedIndex(name=name, folder=folder, encoder=encoder, snapshot=snapshot, pointer=pointer)
    return indexes


def find_index(indexes: Mapping[str, ServedIndex], name: str | None) -> ServedIndex:
    """Find the index of that name; without one the first is meant. Raises Refusal."""
    if name is None and indexes:
        return next(iter(indexes.values()))
    if name is None or name not in indexes:
        message = f"there is no index {name!r} here; there is: {', '.join(indexes)}"
        if not indexes:
            message = "this server has no index; start kdserve serve with --index"
        raise Refusal("missing", message, param="index")
    return indexes[name]


def _is_full(error: BaseException | None) -> bool:
    """Say whether a full disk, a quota or a limit is behind an error."""
    while error is not None and getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        error = error.__cause__
    return error is not None


def _fits(folder: Path, snapshot: Snapshot, encoder: ServedEncoder) -> bool:
    try:
        require_compatible(folder, snapshot.state.encoder, snapshot.state.teacher, encoder.encoder)
    except FolderError:
        return False
    return True


def _pointer(folder: Path) -> tuple[int, int, int]:
    """Return what changes whenever an index's pointer is replaced."""
    try:
        stat = (folder / MANIFEST_NAME).stat()
    except OSError as error:
        raise FolderError(f"there is no index in {folder}; check the path, and who may read it") from error
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
