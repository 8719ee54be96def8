"""Refuse to train on sentences of the evaluation files.

Sentences are compared in a form that forgets case, width, spaces and punctuation: NFKC, case folded, letters, marks and
numbers only.
"""

from __future__ import annotations

import csv
import glob
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import Corpus, iter_texts
from kdserve.distill.data.pairs import hash_text
from kdserve.errors import DataError
from kdserve.json_files import parse_json
from kdserve.lines import MAX_TEXT_BYTES, read_lines
from kdserve.recipe import PairsRecipe


def refuse_overlap(corpus: Corpus, recipe: PairsRecipe, *, progress: Progress = no_progress) -> None:
    """Check every source and translation against the files that `refuse_overlap` names.

    A sentence is a cell of a .csv, a text anywhere in a line of .jsonl, a line of others or what stands between its
    tabs; each may be gzipped.

    Raises:
        DataError: a glob without a file, a file that cannot be read, or a training sentence that stands in one; shows
            the sentence.
    """
    forbidden: dict[int, str] = {}
    for pattern in recipe.refuse_overlap:
        paths = sorted(glob.glob(str(Path(recipe.data_dir) / pattern)))  # noqa: PTH207
        if not paths:
            raise DataError(f"refuse_overlap names {pattern}, but no file matches; check data_dir")
        for path in paths:
            forbidden |= dict.fromkeys(_hashes(Path(path)), path)
    if not forbidden:
        return
    total, done, found = len(corpus.translations) + len(corpus.sources), 0, 0
    example = ""
    for store in (corpus.translations, corpus.sources):
        for texts in iter_texts(store):
            for text in texts:
                if where := forbidden.get(hash_text(comparison_form(text))):
                    found, example = found + 1, example or f"{text!r} ({where})"
            done += len(texts)
            progress("checking overlap", done, total)
    if found:
        raise DataError(f"{found} training sentences stand in the evaluation files, first {example}; remove them")


def comparison_form(text: str) -> str:
    """NFKC, case folded, everything but letters, marks and numbers removed."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return folded if folded.isalnum() else "".join(c for c in folded if unicodedata.category(c)[0] in "LMN")


def _hashes(path: Path) -> set[int]:
    lines, kind = (line for _, line in read_lines(path, keep_ends=True)), Path(path.name.removesuffix(".gz")).suffix
    csv.field_size_limit(MAX_TEXT_BYTES)  # else 131,072 characters
    try:
        if kind == ".csv":
            rows: Iterable[Iterable[str]] = csv.reader(lines, strict=True)
        elif kind == ".jsonl":
            rows = (_texts_in(parse_json(line)) for line in lines if line.strip())
        else:
            rows = (line.split("\t") for line in lines)
        forms = {comparison_form(cell) for row in rows for cell in row}
    except (csv.Error, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no {kind[1:].upper()} ({error}); fix it or leave it out") from error
    return {hash_text(form) for form in forms if len(form) > 1 and not form.isdigit()}


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(part)
