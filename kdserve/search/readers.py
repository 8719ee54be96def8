"""Documents from files: text, TSV, CSV, JSON Lines, Parquet, a folder of texts, or standard input.

txt       one document a line; blank lines are skipped
tsv, csv  a header line; the text column is a document, `id`, `lang` or `language` its own, the others its metadata
jsonl     one object a line with `text`, and the same names; an object under `metadata` is taken apart
parquet   columns as in a table
folder    one document for each .txt or .md file below it; the id is the path

Text files may be gzipped. What cannot be read is an error that names the line.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args

from kdserve.errors import DataError, MissingExtraError
from kdserve.search.documents import Document

Format = Literal["txt", "tsv", "csv", "jsonl", "parquet", "folder"]
STDIN = Path("-")
SUFFIXES: Mapping[str, Format] = {
    ".txt": "txt", ".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"
}  # fmt: skip
LANGUAGE_NAMES = ("lang", "language")
PARQUET_ROWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which column of a table is what. The cells of `numbers` are read as numbers, all others as they are."""

    text: str = "text"
    id: str = "id"
    numbers: frozenset[str] = frozenset()


def format_of(path: Path) -> Format:
    """The format that a path's name tells; text for standard input.

    Raises:
        DataError: the name tells none.
    """
    if path == STDIN:
        return "txt"
    if path.is_dir():
        return "folder"
    name = path.with_suffix("") if path.suffix == ".gz" else path
    if name.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path} does not tell its format by its name; give --format, one of {', '.join(get_args(Format))}"
        )
    return SUFFIXES[name.suffix.lower()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Documents in a file, a folder, or standard input."""

    path: Path
    format: Format
    columns: Columns = field(default_factory=Columns)

    def read(self) -> Iterator[Document]:
        """Read documents one by one, holding no more than a few.

        Raises:
            DataError: a missing, empty or damaged file, text that is not UTF-8, a ragged row, a row without a text.
        """
        if self.format == "folder":
            return _read_folder(self.path)
        if self.format == "txt":
            return (Document(text=line) for _, line in _lines(self.path) if line.strip())
        read = {"tsv": _read_tsv, "csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}[self.format]
        return _from_records(self.path, read(self.path), self.columns)

    def count(self) -> int:
        """About how many documents there are, for progress; 0 where that is unknown."""
        if self.path == STDIN:
            return 0
        if self.format == "folder":
            return sum(1 for _ in _text_files(self.path))
        if self.format == "parquet":
            return int(_parquet_file(self.path).metadata.num_rows)
        with _opened(self.path) as file:
            num_lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        return max(0, num_lines - (self.format in ("tsv", "csv")))


def _from_records(path: Path, records: Iterable[tuple[int, dict[str, Any]]], columns: Columns) -> Iterator[Document]:
    for number, record in records:
        try:
            yield _document(record, columns)
        except DataError as error:
            raise DataError(f"{path} line {number}: {error}") from error


def _document(record: dict[str, Any], columns: Columns) -> Document:
    if columns.text not in record:
        raise DataError(f"there is no {columns.text!r} among {', '.join(map(repr, record)) or 'no fields'}")
    nested = record.pop("metadata", {})
    if not isinstance(nested, dict):
        record["metadata"], nested = nested, {}
    text, id_ = record.pop(columns.text), record.pop(columns.id, None)
    language = None
    for name in LANGUAGE_NAMES:
        language = record.pop(name, None) or language
    metadata = {**record, **nested}
    for name in columns.numbers & metadata.keys():
        metadata[name] = _number(name, metadata[name])
    return Document(text=text, id=id_, language=language, metadata=metadata)


def _number(name: str, cell: object) -> int | float | None:
    if cell is None or cell == "":
        return None
    for kind in (int, float):
        try:
            return kind(str(cell))
        except ValueError:
            continue
    raise DataError(f"{name!r} is {cell!r}, not a number; mend it, or leave {name!r} out of the numbers")


def _read_tsv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    header: list[str] | None = None
    for number, line in _lines(path):
        cells = line.split("\t")
        if header is None:
            header = cells
        elif line.strip():
            yield number, _row(path, number, header, cells)


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.reader((line + "\n" for _, line in _lines(path)), strict=True)
    header: list[str] | None = None
    try:
        for cells in rows:
            if header is None:
                header = cells
            elif cells:
                yield rows.line_num, _row(path, rows.line_num, header, cells)
    except csv.Error as error:
        raise DataError(f"{path} line {rows.line_num} is no CSV ({error}); mend it") from error


def _row(path: Path, number: int, header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise DataError(f"{path} line {number} has {len(cells)} columns, its header has {len(header)}; mend the line")
    return dict(zip(header, cells, strict=True))


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} line {number} is no JSON ({error}); mend the line") from error
        if not isinstance(record, dict):
            raise DataError(f"{path} line {number} is no JSON object; write one object a line")
        yield number, record


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in _parquet_file(path).iter_batches(batch_size=PARQUET_ROWS):
        for record in batch.to_pylist():
            number += 1
            yield number, record


def _parquet_file(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as missing:
        raise MissingExtraError("pyarrow", "parquet") from missing
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); check the path and the format") from error


def _read_folder(path: Path) -> Iterator[Document]:
    for file in _text_files(path):
        text = "\n".join(line for _, line in _lines(file))
        if text.strip():
            yield Document(text=text, id=file.relative_to(path).as_posix())


def _text_files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        raise DataError(f"there is no folder {path}; check the path")
    return (file for file in sorted(path.rglob("*")) if file.suffix.lower() in (".txt", ".md") and file.is_file())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a UTF-8 file, without their ends."""
    empty = True
    with _opened(path) as file:
        try:
            for number, line in enumerate(file, 1):
                empty = False
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} line {number} is not UTF-8 ({error.reason}); convert the file") from error
        except (OSError, EOFError) as error:
            raise DataError(f"{path} cannot be read to its end ({error}); restore the file") from error
    if empty:
        raise DataError(f"{path} is empty; give texts")


def _opened(path: Path) -> IO[bytes]:
    if path == STDIN:
        return sys.stdin.buffer
    try:
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}; check the path") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error


def resume_key(source: Source, *settings: str) -> str:
    """What stands for the same documents with the same settings, so that a killed build may go on; "" for stdin.

    Files are known by size and time of change: any edit starts the build afresh.
    """
    if source.path == STDIN:
        return ""
    files = list(_text_files(source.path)) if source.path.is_dir() else [source.path]
    known = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    columns = (source.columns.text, source.columns.id, sorted(source.columns.numbers))
    return hashlib.sha256(repr((known, source.format, columns, settings)).encode()).hexdigest()
