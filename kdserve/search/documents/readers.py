"""Documents from files: text, TSV, CSV, JSON Lines, Parquet, a folder, or standard input.

txt       one document a line; blank lines are skipped
tsv, csv  a header line; the text column is a document, `id`, `lang` or `language` its own, the others its metadata
jsonl     one object a line with `text`, and the same names; an object under `metadata` is taken apart
parquet   columns as in a table
document  a .md, .rst, .html, .pdf, .docx or .epub file by itself: one document, the id is its name
folder    one document for each .txt, .md, .rst, .html, .pdf, .docx and .epub file below it, the id is the path, title
          and language are fields; in a folder without such files, the tables of the one format that it holds, as data
          sets are published in parts

Text files may be gzipped. Lines end with \\n, \\r\\n or \\r. What cannot be read is an error that names the line.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG
from typing import Literal, cast, get_args

from kdserve.errors import DataError, MissingExtraError
from kdserve.lines import STDIN, is_folder, opened, read_lines, show
from kdserve.manifest import MANIFEST_NAME, hash_file
from kdserve.runtime.normalizer import is_blank
from kdserve.search.documents.document import Document, NewMetadata
from kdserve.search.documents.extraction import EXTRACTORS, Extracted, extract
from kdserve.search.documents.markup import read_markup
from kdserve.search.documents.records import Columns, documents_from
from kdserve.search.documents.tables import (
    Record,
    RowGroups,
    count_parquet,
    read_csv,
    read_jsonl,
    read_parquet,
    read_tsv,
)
from kdserve.search.documents.whole_texts import read_whole_text

Format = Literal["txt", "tsv", "csv", "jsonl", "parquet", "document", "folder"]
SUFFIXES: Mapping[str, Format] = {
    ".txt": "txt", ".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"
}  # fmt: skip
WHOLE_TEXTS = (".txt", ".md", ".rst")
TITLE = "title"
"""The one field of a file that is one document."""
CONTENT = "sha256"
"""The field that says which content of its file a document was made of."""
OF_FILE = "file:"
"""Stands before its digest: documents that came another way may have a field of that name too."""
_DOCUMENTS = {*WHOLE_TEXTS, *EXTRACTORS} - SUFFIXES.keys()
_logger = logging.getLogger("kdserve")
TABLES: Mapping[Format, Callable[[Path], Iterator[tuple[int, Record]]]] = {
    "tsv": read_tsv, "csv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet
}  # fmt: skip


def format_of(path: Path) -> Format:
    """The format that a path's name tells; text for standard input.

    Raises:
        DataError: the name tells none.
    """
    if path == STDIN:
        return "txt"
    if is_folder(path):
        return "folder"
    if _ending(path) in _DOCUMENTS:
        return "document"
    if _ending(path) not in SUFFIXES:
        raise DataError(
            f"{path} does not tell its format by its name; give --format, one of {', '.join(get_args(Format))}"
        )
    return SUFFIXES[_ending(path)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Documents in a file, a folder, or standard input.

    `skipped` counts what a folder holds beside them, by what it is, and `blank` has the ids that files without a text
    would give; both fill while they are read. With `follow` the documents of a folder's files say in `sha256` of which
    content they are, so that `sync_folder` writes only what changes.
    """

    path: Path
    format: Format
    columns: Columns = field(default_factory=Columns)
    follow: bool = False
    skipped: Counter[str] = field(default_factory=Counter, compare=False)
    blank: set[str] = field(default_factory=set, compare=False)

    def read(self) -> Iterator[Document]:
        """Read documents one by one, holding no more than a few.

        Raises:
            DataError: a missing, empty or damaged file, text that is not UTF-8, a ragged row, a row without a text.
        """
        return cast(Iterator[Document], self._read(update=False))

    def read_updates(self) -> Iterator[Document | NewMetadata]:
        """Read documents, and new metadata where a record has an id but no text; raises as `read`."""
        return self._read(update=True)

    def count(self) -> int:
        """About how many documents there are, for progress; 0 where that is unknown, as for a pipe."""
        format, files = self.files()
        if format in ("folder", "document"):
            return len(files)
        return sum(_count(file, format) for file in files)

    def _read(self, *, update: bool) -> Iterator[Document | NewMetadata]:
        format, files = self.begin()
        for file in files:
            yield from self.read_part(file, format, update=update)

    def begin(self) -> tuple[Format, list[Path]]:
        """As `files`, and begin to count what is skipped with what a folder holds beside them."""
        format, files, others = self._listed()
        self.skipped.clear()
        self.blank.clear()
        self.skipped.update(map(_kind_of, others))
        return format, files

    def read_part(
        self, file: Path, format: Format, groups: RowGroups | None = None, *, update: bool = False
    ) -> Iterator[Document | NewMetadata]:
        """The documents of one of the `files`, or of some row groups of it; raises as `read`."""
        if format == "folder":
            yield from self.read_file(file)
        elif format == "document":
            yield from self._documents(file, self._extracted(file))
        elif file.is_file() and not file.stat().st_size:
            if not is_folder(self.path):
                raise DataError(f"{file} is empty; give texts")
            self.skipped["empty"] += 1
        elif format == "txt":
            yield from (Document(text=line) for _, line in read_lines(file) if not is_blank(line))
        else:
            records = TABLES[format](file) if groups is None else read_parquet(file, groups)
            yield from documents_from(file, records, self.columns, update=update)

    def read_file(self, file: Path) -> Iterator[Document]:
        """The document of one of the files of a folder, or none: one that cannot be read is told, others go on."""
        content = {CONTENT: content_of(file)} if self.follow else {}  # before it is read: a later change is seen
        try:
            documents = self._documents(file, self._extracted(file))
        except MissingExtraError as error:
            self.skipped[f"{_ending(file)} ({error})"] += 1
        except DataError as error:
            _logger.warning("skipped: %s", error)
            self.skipped[f"{_ending(file)} that cannot be read"] += 1
        else:
            yield from (replace(document, metadata={**document.metadata, **content}) for document in documents)

    def _extracted(self, file: Path) -> Extracted:
        if _ending(file) in EXTRACTORS:
            return extract(file)
        return read_markup(read_whole_text(file), ending=_ending(file))

    def _documents(self, file: Path, found: Extracted) -> list[Document]:
        if is_blank(found.text):
            self.pass_blank(file)
            return []
        metadata = self.columns.kept({TITLE: found.title} if found.title else {})
        return [Document(text=found.text, id=self._name_of(file), language=found.language, metadata=metadata)]

    def pass_blank(self, file: Path) -> None:
        """Count one of the files that has no text."""
        self.skipped[f"{_ending(file)} without a text"] += 1
        self.blank.add(self._name_of(file))

    def _name_of(self, file: Path) -> str:
        name = file.name if file == self.path else file.relative_to(self.path).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError as error:
            encoding = sys.getfilesystemencoding()
            advice = "rename it" if encoding == "utf-8" else "set PYTHONUTF8=1, or rename it"
            raise DataError(f"{file} has a name that is no {encoding.upper()}; {advice}") from error
        return name

    def files(self) -> tuple[Format, list[Path]]:
        """The format, and the files that are in it: the one that was named, or those of a folder."""
        return self._listed()[:2]

    def _listed(self) -> tuple[Format, list[Path], list[Path]]:
        """As `files`, and what a folder holds beside them."""
        if not is_folder(self.path):
            if self.format == "folder":
                what = "is a file, not a folder" if self.path.exists() else "is not there"
                raise DataError(f"{show(self.path)} {what}; check the path and --format")
            return self.format, [self.path], []
        below = _files_below(self.path)
        there = [file for file in below if not _is_hidden(file)]
        if self.format == "document":
            raise DataError(f"{self.path} is a folder; leave out --format, or name a file in it")
        format = self.format if self.format != "folder" else _format_in(self.path, there)
        endings = (
            [*WHOLE_TEXTS, *EXTRACTORS]
            if format == "folder"
            else [name for name, told in SUFFIXES.items() if told == format]
        )
        wanted = [file for file in there if _ending(file) in endings and file.is_file()]
        if not wanted:
            raise DataError(f"{self.path} holds no {_listed(endings)} file; {_told(below)}")
        return format, wanted, sorted({*below} - {*wanted})


def content_of(file: Path) -> str:
    """SHA-256 of a file, marked; "" for one that cannot be opened or is gone by now, which reading it tells."""
    try:
        return OF_FILE + hash_file(file)
    except OSError:
        return ""


def resume_key(source: Source, *settings: str) -> str:
    """Key of the same documents with the same settings, so that a killed build may go on; "" for a pipe.

    Files are known by size and time of change: any edit starts the build afresh. So does another folder above the same
    files, as their paths below it are ids.
    """
    format, files = source.files()
    known = []
    for file in files:
        try:
            found = file.stat()
        except FileNotFoundError:  # gone by now, or never there: who reads it says so
            return ""
        if not S_ISREG(found.st_mode):
            return ""
        known.append((str(file.resolve()), found.st_size, found.st_mtime_ns))
    chosen = source.columns
    fields = [] if chosen.fields is None else [sorted(chosen.fields)]
    columns = (chosen.text, chosen.id, sorted(chosen.numbers), *fields)
    if format == "folder":
        columns += (str(source.path.resolve()),)
    return hashlib.sha256(repr((known, format, columns, settings)).encode()).hexdigest()


def _format_in(folder: Path, files: list[Path]) -> Format:
    """Format of a folder: whole texts, if it holds any, else the one format of its tables."""
    endings = {_ending(file) for file in files}
    if endings & {*WHOLE_TEXTS, *EXTRACTORS}:
        return "folder"
    if (folder / MANIFEST_NAME).is_file():
        raise DataError(f"{folder} is a folder that kdserve made, not one of texts; check the path")
    formats = sorted({SUFFIXES[ending] for ending in endings if ending in SUFFIXES})
    if len(formats) > 1:
        raise DataError(f"{folder} holds tables of several formats; choose one with --format: {', '.join(formats)}")
    return formats[0] if formats else "folder"


def _files_below(folder: Path) -> list[Path]:
    """Everything below a folder that is no folder, in order, and what is not entered: links to folders, hidden ones."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from error

    found = []
    for where, folders, names in os.walk(folder, onerror=refuse):
        found += [Path(where) / name for name in names]
        found += [path for name in folders if _is_hidden(path := Path(where) / name) or path.is_symlink()]
        folders[:] = [name for name in folders if not _is_hidden(Path(name))]
    return sorted(found)


def _is_hidden(path: Path) -> bool:
    """Whether no list of a folder shows this: settings, bins, version control, and what programs keep of open files."""
    return path.name.startswith((".", "~$")) or path.name == "__MACOSX"


def _ending(path: Path) -> str:
    """How a file's name ends, without .gz and in small letters."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _kind_of(path: Path) -> str:
    """What is told of something in a folder that is no document."""
    if _is_hidden(path):
        return "hidden"
    if path.is_dir():
        return "link to a folder, which is not followed"
    ending = _ending(path) or "without an ending"
    return ending if path.is_file() else f"{ending} that leads to no file"


def _listed(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _told(files: list[Path]) -> str:
    kinds = Counter(map(_kind_of, files))
    return "it is empty" if not kinds else "there are " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5))


def _count(file: Path, format: Format) -> int:
    if format == "parquet":
        return count_parquet(file)
    if file == STDIN or (file.exists() and not file.is_file()):
        return 0
    with opened(file) as lines:
        num_lines = sum(block.count(b"\n") for block in iter(lambda: lines.read(1 << 20), b""))
    return max(0, num_lines - (format in ("tsv", "csv")))
