"""A folder's files and an index kept alike: what is new, changed or gone since the last time, by path and content."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from kdserve.datatypes import Progress, no_progress
from kdserve.errors import DataError
from kdserve.search.documents.document import Document, Id
from kdserve.search.documents.readers import CONTENT, OF_FILE, Source, content_of
from kdserve.search.index.snapshot import open_snapshot
from kdserve.search.retriever import Retriever

REST_NS = 2_000_000_000
"""A file that changed so lately may change again without another time: some file systems count in two seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Synced:
    """How many documents a synchronisation wrote and deleted, and how many were as they should be."""

    written: int
    deleted: int
    unchanged: int


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFiles:
    """What is known of files from one synchronisation to the next, so that those alone are read that changed since.

    `contents` has the size and times of each that was at rest, and the digest that it had with them; `blank` those of
    them that have no text.
    """

    contents: dict[Path, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    blank: set[Path] = field(default_factory=set)

    def content_of(self, file: Path) -> str:
        """As `readers.content_of`."""
        marks, digest = self.contents.get(file, ((), ""))
        if marks != (found := _marks(file)):
            self.contents.pop(file, None)
            self.blank.discard(file)
            is_at_rest = max(found[-2:], default=0) < time.time_ns() - REST_NS
            digest = content_of(file)
            if digest and is_at_rest:
                self.contents[file] = found, digest
        return digest

    def keep_blank(self, file: Path) -> None:
        """Keep that a file has no text, if it is still the one whose content is known."""
        if file in self.contents and self.contents[file][0] == _marks(file):
            self.blank.add(file)


def _marks(file: Path) -> tuple[int, ...]:
    """What changes with a file, its times last."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def sync_folder(
    retriever: Retriever,
    source: Source,
    *,
    files_known: KnownFiles | None = None,
    prepare: Callable[[Iterator[Document]], Iterator[Document]] = iter,
    progress: Progress = no_progress,
) -> Synced:
    """Make an index hold what a folder holds: one commit for new and changed files, one for those that are gone.

    Documents that came another way (no synchronisation, no source with `follow`) stay, but where a file has their id. A
    file that cannot be read any more keeps the document that it had, one without a text has none. Who synchronises ever
    again gives the same `files_known` to all calls; without it every file is read. `prepare` sees the documents before
    they are embedded.

    Raises:
        DataError: no folder, or none with a file that can be read: an index is not emptied by a disk that is not there.
        FolderError: another writer, or a damaged index.
    """
    files_known = files_known or KnownFiles()
    format, files = source.begin()
    if format != "folder":
        raise DataError(f"{source.path} is no folder of texts; use add and update for tables")
    known = contents(retriever.folder)
    there = {file.relative_to(source.path).as_posix(): file for file in files}
    digests = {name: files_known.content_of(file) for name, file in there.items()}
    stale = [name for name, digest in digests.items() if known.get(name) != digest]
    following = replace(source, follow=True)

    def read() -> Iterator[Document]:
        for name in stale:
            if there[name] in files_known.blank:
                source.pass_blank(there[name])
                continue
            yield from following.read_file(there[name])
            if name in source.blank:
                files_known.keep_blank(there[name])

    fresh = iter(prepare(read()))
    first, num_written = list(islice(fresh, 1)), 0
    if not first and len(stale) == len(there):
        raise DataError(f"{source.path} holds no file with a text that can be read; nothing was changed")

    def written() -> Iterator[Document]:
        nonlocal num_written
        for document in chain(first, fresh):
            num_written += 1
            yield document

    if first:
        retriever.update(written(), total=len(stale), progress=progress)
    gone = [
        name for name, digest in known.items() if digest is not None and (name not in there or name in source.blank)
    ]
    if gone:
        retriever.delete(gone)
    return Synced(written=num_written, deleted=len(gone), unchanged=len(there) - len(stale))


def contents(index: Path) -> dict[Id, str | None]:
    """The documents of an index by id, with the content of their file; None for those that came another way."""
    found: dict[Id, str | None] = {}
    for segment in open_snapshot(index, exact=True).segments:
        for document in filter(segment.is_live, segment.stored.scan()):
            digest = document.metadata.get(CONTENT)
            is_ours = isinstance(digest, str) and digest.startswith(OF_FILE)
            found[document.id] = str(digest) if is_ours else None
    return found
