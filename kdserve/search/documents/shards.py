"""Documents that workers read, embed and write by themselves, in shards of their source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

from kdserve.datatypes import Embedder
from kdserve.errors import DataError
from kdserve.lines import STDIN, is_folder, show
from kdserve.search.documents.document import Document
from kdserve.search.documents.readers import Format, Source
from kdserve.search.documents.tables import RowGroups, row_groups

SHARD_ROWS = 32_768
SHARD_FILES = 64
Result = TypeVar("Result")
Prepare = Callable[[Iterator[Document]], Iterator[Document]]
Opened = Callable[[], Embedder]
"""Gives the encoder of a worker, which is opened when it is first asked for; raises FolderError where it is another
than that of the command, or as what opens it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Some files of a source, or some row groups of a Parquet file.

    What its `source` skips is counted there while it is read, for this shard alone.
    """

    source: Source
    format: Format
    files: tuple[Path, ...]
    groups: RowGroups | None = None

    def read(self) -> Iterator[Document]:
        """Read its documents; raises as `Source.read`."""
        self.source.skipped.clear()
        self.source.blank.clear()
        for file in self.files:
            yield from cast(Iterator[Document], self.source.read_part(file, self.format, self.groups))

    def __str__(self) -> str:
        name = str(self.files[0])
        if self.groups:
            return f"{name} lines {self.groups.rows_before + 1} to {self.groups.rows_before + self.groups.num_rows}"
        return name if len(self.files) == 1 else f"{name} and the {len(self.files) - 1} files after it"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask(Generic[Result]):
    """What a worker shall do with one shard; doing it twice must give the same as doing it once.

    What it warns of is logged where the command runs, but of what is not `told`.
    """

    shard: Shard
    run: Callable[[Shard, Opened], Result]
    told: bool = True


class Workers(Protocol):
    """Processes that hold an encoder each, as `cluster.RayWorkers` does. What is lost with one is run again."""

    def each(
        self, tasks: Sequence[ShardTask[Result]], fingerprint: str, done: Callable[[Result], None]
    ) -> list[Result]:
        """Run tasks, and call `done` after each; results have the order of tasks. The error is that of the first task
        that fails.

        Raises:
            FolderError: a worker opened an encoder of another `fingerprint`.
            EncodeError: workers were lost with a shard ever again; the message names it.
        """

    def once(self, call: Callable[[], Result]) -> Result:
        """Run one call that needs no encoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedDocuments:
    """The documents of a source for workers, who must find its files under the same paths.

    `prepare` sees the documents before they are embedded.
    """

    source: Source
    workers: Workers
    prepare: Prepare = iter

    def shards(self) -> list[Shard]:
        """The shards in the order of the source, whatever the workers; of documents no more than the names are read.

        Raises:
            DataError: standard input or another pipe, or as `Source.read`.
        """
        format, files = self.source.begin()
        source = replace(self.source, path=self.source.path.absolute(), skipped=Counter(), blank=set())
        files = [file.absolute() for file in files] if is_folder(self.source.path) else [source.path]
        shards: list[Shard] = []
        if format == "folder":
            starts = range(0, len(files), SHARD_FILES)
            return [Shard(source=source, format=format, files=tuple(files[n : n + SHARD_FILES])) for n in starts]
        for file in files:
            if self.source.path == STDIN or (file.exists() and not file.is_file()):
                raise DataError(f"workers cannot read {show(self.source.path)}; write the texts to a file first")
            if not file.exists():
                raise DataError(f"there is no file {file}; check the path")
            parts: list[RowGroups | None] = []
            if format == "parquet" and file.stat().st_size:
                parts += row_groups(file, SHARD_ROWS)
            for groups in parts or [None]:
                shards.append(Shard(source=source, format=format, files=(file,), groups=groups))
        return shards
