"""Read sentence pairs, one at a time, from TSV(.gz), JSONL(.gz), Parquet, the hub, or the sample corpus."""

from __future__ import annotations

import glob
import hashlib
import heapq
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdserve import samples
from kdserve.errors import DataError, MissingExtraError
from kdserve.json_files import parse_json
from kdserve.lines import read_lines
from kdserve.manifest import hash_file
from kdserve.recipe import DataRecipe
from kdserve.runtime.normalizer import is_blank


@dataclass(frozen=True, slots=True)
class Pair:
    """A source sentence and its translation; a source sentence alone has translation and language ""."""

    source: str
    translation: str
    language: str
    domain: str
    weight: float


def read_pairs(data: DataRecipe, *, data_dir: Path, languages: frozenset[str]) -> Iterator[Pair]:
    """Yield the pairs of one source in file order; empty `languages` means all of them.

    Raises:
        DataError: a missing or empty file, a ragged row, wrong encoding, a missing column; names file and line.
    """
    count = 0
    for pair in _choose(_wanted(data, data_dir, languages), most=data.most):
        count += 1
        yield pair
    if count == 0:
        raise DataError(f"{data.path} gave no pair; check the path, the languages and `exclude`")


def _wanted(data: DataRecipe, data_dir: Path, languages: frozenset[str]) -> Iterator[Pair]:
    for where, language, row in _rows(data, data_dir):
        if languages and language and language not in languages:
            continue
        pair = _to_pair(data, row, language, where)
        excluded = pair.domain in data.exclude or f"{pair.domain}:{pair.language}" in data.exclude
        if not excluded and (not languages or not pair.language or pair.language in languages):
            yield pair


def _choose(pairs: Iterator[Pair], *, most: int) -> Iterator[Pair]:
    """Yield all pairs, or of each language the `most` whose source sentences have the lowest hashes."""
    if not most:
        yield from pairs
        return
    lowest: dict[str, list[tuple[int, int, Pair]]] = {}
    for number, pair in enumerate(pairs):
        kept = lowest.setdefault(pair.language, [])
        entry = (-hash_text(pair.source), -number, pair)
        if len(kept) < most:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
    for kept in lowest.values():
        yield from (pair for _, _, pair in sorted(kept, key=lambda entry: -entry[1]))


def hash_text(text: str) -> int:
    """64-bit key of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


Row = Mapping[str, Any]
Located = tuple[str, str, Row]


def _rows(data: DataRecipe, data_dir: Path) -> Iterator[Located]:
    if data.path == "sample":
        yield from _sample_rows()
    elif data.path.startswith("hub:"):
        yield from ((f"{data.path} row {i}", data.language, row) for i, row in enumerate(_hub_rows(data)))
    else:
        for path, language in find_files(data, data_dir):
            for number, row in _file_rows(path, data):
                yield f"{path} line {number}", language or data.language, row


def find_files(data: DataRecipe, data_dir: Path) -> list[tuple[Path, str]]:
    """Return the files that a source names, each with the language that its name gives ("" if none)."""
    template = str(data_dir / data.path)
    before, placeholder, after = template.partition("{language}")
    if not placeholder:
        paths = sorted(glob.glob(template))  # noqa: PTH207  (the path may be absolute)
        found = [(Path(path), "") for path in paths]
    else:
        pattern = re.compile(re.escape(before) + r"([A-Za-z]{2,3}(?:[-_][A-Za-z]+)?)" + re.escape(after) + "$")
        paths = sorted(glob.glob(glob.escape(before) + "*" + glob.escape(after)))  # noqa: PTH207
        found = [(Path(path), match[1]) for path in paths if (match := pattern.match(path))]
    if not found:
        raise DataError(f"no file matches {template}; check data_dir and path")
    return found


def digest_files(data: DataRecipe, data_dir: Path) -> list[tuple[str, str]]:
    """Return SHA-256 and language of each file of a source; of the sample corpus its own, of the hub nothing.

    Raises:
        DataError: no file, or one that cannot be read.
    """
    if data.path.startswith("hub:"):
        return []
    if data.path == "sample":
        return [(hashlib.sha256(json.dumps(samples.parallel()).encode()).hexdigest(), "")]
    digests = []
    for path, language in find_files(data, data_dir):
        try:
            digests.append((hash_file(path), language))
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    return digests


def _file_rows(path: Path, data: DataRecipe) -> Iterator[tuple[int, Row]]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from enumerate(_parquet_rows(path), start=1)
        return
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; give it at least one pair")
    yield from _json_lines(path) if name.endswith((".jsonl", ".json")) else _tsv_rows(path, data)


def _tsv_rows(path: Path, data: DataRecipe) -> Iterator[tuple[int, Row]]:
    columns = [data.source, data.translation, data.language_column, data.domain_column]
    has_header = any(column and not column.isdigit() for column in columns)
    header: list[str] = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        fields = line.split("\t")
        if not header:
            header = fields if has_header else [str(i) for i in range(len(fields))]
            if len(set(header)) < len(header):
                raise DataError(f"{path} line {number} names a column twice ({', '.join(header)}); rename one")
            if has_header:
                continue
        if len(fields) != len(header):
            columns_found = f"{len(fields)} columns, the first line has {len(header)}"
            raise DataError(f"{path} line {number} has {columns_found}; fix the line")
        yield number, dict(zip(header, fields, strict=True))


def _json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in read_lines(path):
        if line.strip():
            try:
                row = parse_json(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path} line {number} is no JSON ({error}); fix the line") from error
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number} is no JSON object; write one object a line")
            yield number, row


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "distill") from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file ({error}); write it again") from error


def _hub_rows(data: DataRecipe) -> Iterator[Row]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "distill") from error
    name, _, config = data.path.removeprefix("hub:").partition("#")
    try:
        yield from datasets.load_dataset(name, config or None, split=data.split, streaming=True)
    except (OSError, ValueError) as error:
        raise DataError(f"the data set {name} cannot be read from the hub ({error}); check name and split") from error


def _sample_rows() -> Iterator[Located]:
    parallel = samples.parallel()
    for language, sentences in parallel.items():
        if language != "en":
            for i, (source, translation) in enumerate(zip(parallel["en"], sentences, strict=True)):
                yield f"the sample corpus row {i}", language, {"0": source, "1": translation}


def _to_pair(data: DataRecipe, row: Row, language: str, where: str) -> Pair:
    source = _column(row, data.source, where)
    translation = _column(row, data.translation, where) if data.translation else ""
    if data.translation and data.language_column:
        language = _column(row, data.language_column, where)
    if data.translation and not language:
        raise DataError(f"{where} has no language; set `language`, `language_column`, or {{language}} in the path")
    domain = _column(row, data.domain_column, where) if data.domain_column else data.domain
    weight = data.weight * data.weights.get(domain, 1.0)
    return Pair(source, translation, language if data.translation else "", domain, weight)


def _column(row: Row, column: str, where: str) -> str:
    value: Any = row
    for part in column.split("."):  # "translation.en" reaches into the nested records of hub data sets
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(f"{where} has no column {column!r}; it has {', '.join(map(str, row))}")
        value = value[part]
    if not isinstance(value, str) or is_blank(value):
        raise DataError(f"{where} has no text in column {column!r}; fix or drop the row")
    return value.strip()
