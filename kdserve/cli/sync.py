"""`kdserve index sync`: an index that follows a folder."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdserve.cli.console import needs_extra, progress_bars, say, say_error
from kdserve.cli.documents import open_source, skipped_in, with_languages
from kdserve.cli.options import Device, Fields, Threads
from kdserve.cli.search import OtherBundle, open_retriever
from kdserve.errors import FolderError, KdserveError

if TYPE_CHECKING:
    from kdserve.search import KnownFiles, Retriever, Source

LOOK_MS = 2000
"""Between looks at whether the folder is still the one that is followed."""
RETRY_S = 5.0
"""Between tries to write an index that another process is writing, or whose disk is full."""


def register(index: typer.Typer) -> None:
    """Add the command to `kdserve index`."""
    index.command("sync")(sync)


def sync(
    folder: Annotated[Path, typer.Argument(help="An index folder.")],
    texts: Annotated[Path, typer.Argument(help="The folder that the index shall follow.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and follow every change until Ctrl-C.")] = False,
    fields: Fields = None,
    languages_by: Annotated[str, typer.Option(help="A classifier that names languages, like kdserve-langid.")] = "",
    bundle: OtherBundle = "",
    threads: Threads = None,
    device: Device = "cpu",
) -> None:
    """Add, update and delete documents so that the index holds what a folder holds, by path and content.

    Documents that came another way stay. Files that cannot be read are told, and keep the document that they had.
    """
    from kdserve.search import KnownFiles

    retriever = open_retriever(folder, bundle, device=device, threads=threads)
    source = open_source(texts, "folder", "text", "id", "", fields)
    synchronise = partial(_sync, retriever, source, KnownFiles(), _News(), languages_by, threads)
    synchronise()
    if not watch:
        return
    with needs_extra("documents"):
        import watchfiles
    say(f"following {texts}; Ctrl-C ends")
    for _ in _changes(texts, watchfiles.watch):
        try:
            _until_written(synchronise)
        except KdserveError as error:  # the next change may mend it
            say_error(error)


def _changes(folder: Path, watch: Callable[..., Iterator[set[Any]]]) -> Iterator[None]:
    """Yield once a folder is watched, and whenever something in it changes or another takes its place, which no watch
    tells."""
    while True:
        followed, is_new = _inode(folder), True
        with contextlib.suppress(FileNotFoundError):
            for changes in watch(folder, raise_interrupt=True, yield_on_timeout=True, rust_timeout=LOOK_MS):
                if changes or is_new:
                    yield
                is_new = False
                if _inode(folder) != followed:
                    break
        while _inode(folder) is None:
            time.sleep(LOOK_MS / 1000)


def _until_written(write: Callable[[], None]) -> None:
    """Write, again and again where the index refuses it: no change in the folder will tell when it does no more."""
    told = ""
    while True:
        try:
            return write()
        except FolderError as error:
            if str(error) != told:
                say_error(error)
            told = str(error)
        time.sleep(RETRY_S)


def _inode(folder: Path) -> tuple[int, int] | None:
    """Which folder has this name now, if any."""
    with contextlib.suppress(OSError):
        found = folder.stat()
        return found.st_dev, found.st_ino
    return None


class _News(logging.Filter):
    """What is said in one round and was not said in the round before, of the log and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self._before: set[str] = set()
        self._now: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is news."""
        return self.is_new(record.getMessage())

    def is_new(self, line: str) -> bool:
        """Whether a line is news; it is not in the next round."""
        self._now.add(line)
        return line not in self._before

    @contextlib.contextmanager
    def round(self) -> Iterator[None]:
        """A round, in which the log holds news alone."""
        logger = logging.getLogger("kdserve")
        self._before, self._now = self._now, set()
        logger.addFilter(self)
        try:
            yield
        finally:
            logger.removeFilter(self)


def _sync(
    retriever: Retriever, source: Source, known: KnownFiles, news: _News, languages_by: str, threads: int | None
) -> None:
    from kdserve.search import sync_folder

    prepare = partial(with_languages, languages_by=languages_by, threads=threads)
    with news.round():
        with progress_bars() as progress:
            done = sync_folder(retriever, source, files_known=known, prepare=prepare, progress=progress)
        if (skipped := skipped_in(source)) and news.is_new(skipped):
            say(skipped)
    say(f"{retriever.folder}: {done.written} written, {done.deleted} deleted, {done.unchanged} unchanged")
