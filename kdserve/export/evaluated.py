"""Evaluation of a student and of its bundle on files. The caller brings the evaluation: this room has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kdserve.datatypes import Embedder


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Figures of one embedder by language, in points of 100: translation retrieval, and Spearman on sentence pairs."""

    retrieval: Mapping[str, float] = field(default_factory=dict)
    spearman: Mapping[str, float] = field(default_factory=dict)


Evaluate = Callable[[Embedder], Evaluation]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedLanguage:
    """One language before and after; None where there is no file of that kind."""

    language: str
    retrieval_student: float | None
    retrieval_bundle: float | None
    spearman_student: float | None
    spearman_bundle: float | None


def compare_evaluations(before: Evaluation, after: Evaluation) -> tuple[EvaluatedLanguage, ...]:
    """Set student and bundle side by side, every language of either kind of file."""
    languages = sorted({*before.retrieval, *before.spearman})
    return tuple(
        EvaluatedLanguage(
            language=language,
            retrieval_student=before.retrieval.get(language),
            retrieval_bundle=after.retrieval.get(language),
            spearman_student=before.spearman.get(language),
            spearman_bundle=after.spearman.get(language),
        )
        for language in languages
    )


def evaluation_table(rows: tuple[EvaluatedLanguage, ...]) -> str:
    """Return a Markdown table, one language a row."""
    lines = [
        "| language | retrieval student | retrieval bundle | Spearman student | Spearman bundle |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        figures = (row.retrieval_student, row.retrieval_bundle, row.spearman_student, row.spearman_bundle)
        lines.append(f"| {row.language} | {' | '.join('–' if f is None else f'{f:.2f}' for f in figures)} |")
    return "\n".join(lines)
