"""Refuse to train on sentences of the evaluation files.

Sentences are compared in a form that forgets case, width, spaces and punctuation: NFKC, case folded, letters, marks and
numbers only.
"""

from __future__ import annotations

import csv
import glob
import unicodedata
from pathlib import Path

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import Corpus, iter_texts
from kdserve.distill.data.pairs import hash_text
from kdserve.errors import DataError
from kdserve.recipe import PairsRecipe


def refuse_overlap(corpus: Corpus, recipe: PairsRecipe, *, progress: Progress = no_progress) -> None:
    """Check every source and translation against the files that `refuse_overlap` names.

    Files ending in .csv are read cell by cell, all others line by line.

    Raises:
        DataError: a glob without a file, or a training sentence that stands in an evaluation file; shows the sentence.
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
    with path.open(encoding="utf-8", newline="" if path.suffix == ".csv" else None) as file:
        rows = csv.reader(file) if path.suffix == ".csv" else ([line] for line in file)
        forms = {comparison_form(cell) for row in rows for cell in row}
    return {hash_text(form) for form in forms if len(form) > 1 and not form.isdigit()}
