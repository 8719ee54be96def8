"""Labelled texts: TSV files with a header, plain or gzip, one for each language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdserve.distill.data.corpus import SOURCE
from kdserve.distill.data.pairs import find_files
from kdserve.distill.streams import Stream, random_stream
from kdserve.errors import DataError
from kdserve.lines import read_lines
from kdserve.recipe import ClassifierRecipe, DataRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledTexts:
    """Texts with their labels and languages, row by row."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    languages: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, other: LabelledTexts) -> LabelledTexts:
        return LabelledTexts(
            texts=self.texts + other.texts,
            labels=self.labels + other.labels,
            languages=self.languages + other.languages,
        )

    def numbers(self, labels: Sequence[str]) -> npt.NDArray[np.int64]:
        """(N,) the place of each text's label in `labels`."""
        place = {label: number for number, label in enumerate(labels)}
        return np.array([place[label] for label in self.labels], dtype=np.int64)


NO_TEXTS = LabelledTexts(texts=(), labels=(), languages=())


def read_labelled(path: Path, *, language: str, text: str = "text", label: str = "label") -> LabelledTexts:
    """Read one file.

    Raises:
        DataError: missing, not UTF-8, without one of the columns, a ragged row, an empty cell, or no row at all.
    """
    header, *rows = [line.split("\t") for _, line in read_lines(path)] or [[]]
    for column in (text, label):
        if column not in header:
            found = ", ".join(header) or "nothing"
            raise DataError(f"{path} has no column {column!r}; its first line names {found}")
    columns = header.index(text), header.index(label)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or not all(row[column].strip() for column in columns):
            raise DataError(f"{path} line {number} has no text or no label, or other columns than the first line")
    if not rows:
        raise DataError(f"{path} has no row below its header; give it labelled texts")
    texts, labels = (tuple(row[column].strip() for row in rows) for column in columns)
    return LabelledTexts(texts=texts, labels=labels, languages=(language,) * len(rows))


def read_source(settings: ClassifierRecipe, path: Path) -> LabelledTexts:
    """Read a file of the source language's texts."""
    return read_labelled(path, language=SOURCE, text=settings.text, label=settings.label)


def read_target(settings: ClassifierRecipe, data_dir: Path, *, languages: Collection[str], seed: int) -> LabelledTexts:
    """Read the target texts that the mode learns from: none, a few of each class, or all.

    Those of `languages` are read and must be there; without any, whatever languages there are.
    """
    if settings.mode not in ("semi-supervised", "supervised"):
        return NO_TEXTS
    wanted = set(languages)
    found = NO_TEXTS
    for path, language in find_files(DataRecipe(path=settings.target), data_dir):
        if language != SOURCE and (not wanted or language in wanted):
            read = read_labelled(path, language=language, text=settings.text, label=settings.label)
            found += _few(read, settings.per_class, seed=seed) if settings.mode == "semi-supervised" else read
    if missing := sorted(wanted - {SOURCE} - set(found.languages)):
        raise DataError(f"the recipe names {', '.join(missing)}, but {settings.target} has no such file; add some")
    if not found:
        raise DataError(f"{settings.target} has files of the source language alone; add some of the target languages")
    return found


def choose_labels(settings: ClassifierRecipe, known: Sequence[str], **files: LabelledTexts) -> tuple[str, ...]:
    """Return the labels in their order: the teacher's, the recipe's, or those of the labelled texts, sorted.

    `known` are the labels of the teacher, empty where its head is yet to be trained. `files` are texts by role.

    Raises:
        DataError: a label that the teacher or the recipe does not know, a label without a text, or fewer than two.
    """
    labelled = files["labelled"]
    labels = tuple(known) or settings.labels or tuple(sorted(set(labelled.labels)))
    who = "the teacher does" if known else "classifier.labels does" if settings.labels else f"{settings.labelled} does"
    if known and settings.labels and set(known) != set(settings.labels):
        raise DataError(f"the teacher has the labels {_listed(known)}, classifier.labels {_listed(settings.labels)}")
    for role, texts in files.items():
        strangers = sorted(set(texts.labels) - set(labels))
        if strangers:
            raise DataError(
                f"classifier.{role} has the label {strangers[0]!r}, which {who} not know ({_listed(labels)}); "
                "fix the file or the labels"
            )
    empty = [label for label in labels if label not in set(labelled.labels)]
    if empty:
        raise DataError(f"the label {empty[0]!r} has no text in {settings.labelled}; give it some or leave it out")
    if len(labels) < 2:
        raise DataError(f"{settings.labelled} has one label only, {labels[0]!r}; a classifier needs two or more")
    return labels


def _few(texts: LabelledTexts, per_class: int, *, seed: int) -> LabelledTexts:
    """Draw `per_class` texts of each label."""
    seen: Counter[str] = Counter()
    kept = []
    for row in random_stream(Stream.LABELS_PER_CLASS, seed).permutation(len(texts)).tolist():
        seen[texts.labels[row]] += 1
        if seen[texts.labels[row]] <= per_class:
            kept.append(row)
    return LabelledTexts(
        texts=tuple(texts.texts[row] for row in kept),
        labels=tuple(texts.labels[row] for row in kept),
        languages=tuple(texts.languages[row] for row in kept),
    )


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
