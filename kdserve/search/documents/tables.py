"""Rows of tables as records: TSV, CSV, JSON Lines and Parquet. A record maps names to what the cells hold.

Names are compared in their composed form (Unicode NFC); two of one name are an error, as one would be lost.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import math
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdserve.errors import DataError, MissingExtraError
from kdserve.lines import MAX_TEXT_BYTES, STDIN, read_lines, show

Record = dict[str, Any]
PARQUET_ROWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RowGroups:
    """Neighbouring row groups of a Parquet file, and how many rows stand before and in them."""

    numbers: tuple[int, ...]
    rows_before: int
    num_rows: int


def read_tsv(path: Path) -> Iterator[tuple[int, Record]]:
    """The rows of a table whose cells are parted by tabs, below a header line, with their line numbers."""
    header: list[str] | None = None
    for number, line in read_lines(path):
        cells = line.split("\t")
        if header is None:
            header = _names(path, cells)
        elif line.strip():
            yield number, _row(path, number, header, cells)


def read_csv(path: Path) -> Iterator[tuple[int, Record]]:
    """The rows of a table in quotes and commas, below a header line, with their line numbers."""
    csv.field_size_limit(MAX_TEXT_BYTES)  # else 131,072 characters
    size = 0

    def lines() -> Iterator[str]:
        nonlocal size
        for number, line in read_lines(path, keep_ends=True):
            size += len(line)
            if size > MAX_TEXT_BYTES:  # cells in quotes go over lines: a row would be as long as the file
                most = f"{MAX_TEXT_BYTES // 1_000_000} million"
                raise DataError(f"{show(path)} line {number} goes on with a row of more than {most} characters; cut it")
            yield line

    rows = csv.reader(lines(), strict=True)
    header: list[str] | None = None
    try:
        for cells in rows:
            size = 0
            if header is None:
                header = _names(path, cells)
            elif cells:
                yield rows.line_num, _row(path, rows.line_num, header, cells)
    except csv.Error as error:
        raise DataError(f"{show(path)} line {rows.line_num} is no CSV ({error}); fix it") from error


def read_jsonl(path: Path) -> Iterator[tuple[int, Record]]:
    """One object a line, with its line number. NaN is nothing, as in Parquet."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_object, parse_constant=_constant)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{show(path)} line {number} is no JSON ({error}); fix the line") from error
        except DataError as error:
            raise DataError(f"{show(path)} line {number}: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{show(path)} line {number} is no JSON object; write one object a line")
        yield number, record


def read_parquet(path: Path, groups: RowGroups | None = None) -> Iterator[tuple[int, Record]]:
    """The rows of a Parquet file, or of some row groups, with their numbers in the file. Times become text (ISO 8601),
    decimals numbers, NaN nothing.
    """
    number = groups.rows_before if groups else 0
    with _parquet(path) as file:
        names = _names(path, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=PARQUET_ROWS, row_groups=groups and list(groups.numbers)):
            columns = [_whole_microseconds(column).to_pylist() for column in batch.columns]
            for cells in zip(*columns, strict=True):
                number += 1
                yield number, {name: _plain(cell) for name, cell in zip(names, cells, strict=True)}


def count_parquet(path: Path) -> int:
    """The number of rows of a Parquet file."""
    with _parquet(path) as file:
        return int(file.metadata.num_rows)


def row_groups(path: Path, num_rows: int) -> list[RowGroups]:
    """The row groups of a Parquet file, in parts of `num_rows` rows or a little more; the last may have fewer."""
    parts: list[RowGroups] = []
    numbers: tuple[int, ...] = ()
    before = here = 0
    with _parquet(path) as file:
        for number in range(file.num_row_groups):
            numbers += (number,)
            here += file.metadata.row_group(number).num_rows
            if here >= num_rows or number == file.num_row_groups - 1:
                parts.append(RowGroups(numbers=numbers, rows_before=before, num_rows=here))
                numbers, before, here = (), before + here, 0
    return parts


def _names(path: Path, names: Sequence[str]) -> list[str]:
    """The names of columns, composed."""
    composed = [unicodedata.normalize("NFC", name) for name in names]
    if twice := _first_repeated(composed):
        raise DataError(f"{show(path)} has two columns named {twice!r}; rename one or leave it out")
    return composed


def _row(path: Path, number: int, header: list[str], cells: list[str]) -> Record:
    if len(cells) != len(header):
        raise DataError(
            f"{show(path)} line {number} has {len(cells)} columns, its header has {len(header)}; fix the line"
        )
    return dict(zip(header, cells, strict=True))


def _object(pairs: list[tuple[str, Any]]) -> Record:
    names = [unicodedata.normalize("NFC", name) for name, _ in pairs]
    if twice := _first_repeated(names):
        raise DataError(f"two fields are named {twice!r}; rename one or leave it out")
    return dict(zip(names, (value for _, value in pairs), strict=True))


def _constant(name: str) -> float | None:
    """What Python and pandas write for a missing number is missing."""
    return None if name == "NaN" else float(name)


def _first_repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def _plain(value: object) -> object:
    """A cell as an index keeps it: NaN is missing, times are text that sorts as they do."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _whole_microseconds(column: Any) -> Any:
    """A column without nanoseconds, which Python's times do not have."""
    import pyarrow
    import pyarrow.types

    kind = column.type
    if getattr(kind, "unit", "") != "ns":
        return column
    if pyarrow.types.is_timestamp(kind):
        return column.cast(pyarrow.timestamp("us", tz=kind.tz), safe=False)
    return column.cast(pyarrow.time64("us") if pyarrow.types.is_time(kind) else pyarrow.duration("us"), safe=False)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """Open a Parquet file; damage that shows while it is read becomes a DataError too."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as missing:
        raise MissingExtraError("pyarrow", "parquet") from missing
    if path == STDIN:
        raise DataError("Parquet cannot come through standard input; name a file")
    if not path.exists():
        raise DataError(f"there is no file {path}; check the path")
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read as Parquet ({reason}); check the file and the format") from error
