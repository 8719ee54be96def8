"""Evaluation files in their standard formats. A bad file is one clear line: which file, which line, what is wrong."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from kdserve.digits import parse_number
from kdserve.errors import DataError
from kdserve.evaluate.languages import short_code
from kdserve.evaluate.similarity import StsPair
from kdserve.evaluate.translation import TranslationPairs
from kdserve.lines import read_lines

PAIR_COLUMNS = ("language", "source", "target")
T = TypeVar("T")
_TATOEBA_NAME = re.compile(r"tatoeba\.([a-z]{3})-eng\.eng")
_STS_NAME = re.compile(r"stsb-([a-z]{2,3})-([a-z]+)\.csv")


def read_tatoeba(folder: Path, *, languages: Collection[str] | None = None) -> dict[str, TranslationPairs]:
    """Read a folder of Tatoeba v1 files, `tatoeba.<xxx>-eng.<xxx>` beside `tatoeba.<xxx>-eng.eng`.

    Returns language (ISO 639-1 where there is one) -> sentences with their English; where `languages` is given, those
    of them that the folder has.

    Raises:
        DataError: no such folder or files, one whose code has not three letters, none in `languages`, a missing side,
            sides of different length, an empty line.
    """
    found = {}
    for path, code in _coded(folder, "tatoeba.*-eng.eng", _TATOEBA_NAME):
        language = short_code(code)
        if languages is None or language in languages:
            found[language] = _tatoeba_pairs(path, language, code)
    return require_found(found, folder, languages)


def read_sts(
    folder: Path, *, split: Literal["dev", "test"] = "test", languages: Collection[str] | None = None
) -> dict[str, list[StsPair]]:
    """Read a folder of `stsb-<language>-<split>.csv` files: sentence1, sentence2, score, with or without a header.

    Where `languages` is given, returns those of them that the folder has.

    Raises:
        DataError: no such folder or files, one whose code has not two or three letters, none in `languages`, or a row
            that does not have that form.
    """
    found = {}
    for path, language in _coded(folder, f"stsb-*-{split}.csv", _STS_NAME):
        if languages is None or language in languages:
            found[language] = _sts_pairs(path)
    return require_found(found, folder, languages)


def read_pairs(path: Path, *, languages: Collection[str] | None = None) -> list[TranslationPairs]:
    """Read a TSV (or TSV.gz) of translation pairs, grouped by domain and language in order of first appearance.

    The header names the columns: `language`, `source` and `target`, and `domain` where there are several.

    Raises:
        DataError: a missing or unreadable file, a header without these columns or with one twice, a ragged row, an
            empty text.
    """
    rows = _tsv_rows(path)
    _, header = next(rows, (0, []))
    if missing := [name for name in PAIR_COLUMNS if name not in header]:
        raise DataError(
            f"{path} has no column {missing[0]}; its first line must name the columns {', '.join(PAIR_COLUMNS)}"
        )
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise DataError(f"{path} has the column {twice[0]} twice; name each column once")
    groups: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{path}, line {line}: {len(cells)} columns, the header has {len(header)}")
        row = dict(zip(header, cells, strict=True))
        if empty := [name for name in PAIR_COLUMNS if not row[name].strip()]:
            raise DataError(f"{path}, line {line}: {empty[0]} is empty")
        if languages is None or row["language"] in languages:
            sources, targets = groups.setdefault((row.get("domain", ""), row["language"]), ([], []))
            sources.append(row["source"])
            targets.append(row["target"])
    if not groups:
        raise DataError(f"{path} has no pairs{_of(languages)}; nothing can be measured")
    return [
        TranslationPairs(domain=domain, language=language, sources=sources, targets=targets)
        for (domain, language), (sources, targets) in groups.items()
    ]


def files_of(folder: Path, *patterns: str) -> list[Path]:
    """Return the files of a folder that have such a name, at least one; hidden ones do not count."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; check the path")
    found = (path for pattern in patterns for path in folder.glob(pattern))
    if paths := sorted(path for path in found if not path.name.startswith(".")):
        return paths
    raise DataError(f"{folder} has no files named {' or '.join(patterns)}; check the path")


def require_found(found: dict[str, T], folder: Path, languages: Collection[str] | None) -> dict[str, T]:
    """Return what was found of `languages`, which must be something."""
    if not found:
        raise DataError(f"{folder} has no evaluation file{_of(languages)}; check the path and the languages")
    return found


def _of(languages: Collection[str] | None) -> str:
    return f" in {', '.join(sorted(languages))}" if languages else ""


def _coded(folder: Path, pattern: str, name: re.Pattern[str]) -> Iterator[tuple[Path, str]]:
    """The files of a folder with the language's code in their names; none that the pattern means is passed over."""
    for path in files_of(folder, pattern):
        if not (match := name.fullmatch(path.name)):
            raise DataError(f"{path} has no language code of the files {pattern} in its name; rename it or take it out")
        yield path, match[1]


def _tatoeba_pairs(english: Path, language: str, code: str) -> TranslationPairs:
    other = english.with_name(f"tatoeba.{code}-eng.{code}")
    sources, targets = list(lines_of(other)), list(lines_of(english))
    if len(sources) != len(targets):
        raise DataError(f"{other} has {len(sources)} lines, {english.name} has {len(targets)}; they must match")
    for number, pair in enumerate(zip(sources, targets, strict=True), start=1):
        if not all(map(str.strip, pair)):
            raise DataError(f"{other if pair[1].strip() else english}, line {number} is empty; take it out of both")
    return TranslationPairs(language=language, domain="tatoeba", sources=sources, targets=targets)


def _sts_pairs(path: Path) -> list[StsPair]:
    pairs = []
    reader = csv.reader(lines_of(path, keep_ends=True), strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            if number == 1 and row == ["sentence1", "sentence2", "score"]:
                continue
            place = f"{path}, line {reader.line_num}"
            if len(row) != 3 or not row[0].strip() or not row[1].strip():
                raise DataError(f"{place}: expected sentence1,sentence2,score, found {row!r:.80}")
            if (score := parse_number(row[2])) is None:
                raise DataError(f"{place}: the score {row[2]!r:.40} is no number such as 3 or 3.75; mend it")
            pairs.append(StsPair(first=row[0], second=row[1], score=float(score)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    if not pairs:
        raise DataError(f"{path} has no sentence pairs; nothing can be measured")
    return pairs


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines_of(path), start=1):
        yield number, line.split("\t")


def lines_of(path: Path, *, keep_ends: bool = False) -> Iterator[str]:
    """Lines of a file that is not empty. Raises as `kdserve.lines.read_lines`."""
    is_empty = True
    for _, line in read_lines(path, keep_ends=keep_ends):
        is_empty = False
        yield line
    if is_empty:
        raise DataError(f"{path} is empty; nothing can be measured")
