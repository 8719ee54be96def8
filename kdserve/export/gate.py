"""The gate: a bundle is compared with its student, language by language, and refused below a floor.

N texts, D width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from kdserve.datatypes import Embeddings
from kdserve.evaluate import nearest_share
from kdserve.export.evaluated import EvaluatedLanguage, evaluation_table
from kdserve.export.settings import ExportSettings
from kdserve.precisions import Precision

_PIVOT = "en"
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageFidelity:
    """One language: cosine between student and bundle over its texts, and translation retrieval before and after.

    `accuracy_*` are percent over both directions to English, None where there is no parallel English.
    """

    language: str
    num_texts: int
    mean_cosine: float
    min_cosine: float
    accuracy_student: float | None
    accuracy_bundle: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FidelityReport:
    """Loss of a bundle against its student. `evaluated` is empty where no evaluation files were given.

    `probes` are rows as those of languages, of long texts, capitals and queries.
    """

    languages: tuple[LanguageFidelity, ...]
    probes: tuple[LanguageFidelity, ...] = ()
    evaluated: tuple[EvaluatedLanguage, ...] = ()
    max_difference: float
    min_mean_cosine_allowed: float
    min_cosine_allowed: float
    max_retrieval_loss_allowed: float

    @property
    def mean_cosine(self) -> float:
        """Mean over all texts."""
        total = sum(row.num_texts for row in self.languages)
        return sum(row.mean_cosine * row.num_texts for row in self.languages) / total

    @property
    def min_cosine(self) -> float:
        """The worst text."""
        return min(row.min_cosine for row in self.languages)

    @property
    def refusal(self) -> str | None:
        """Every language whose mean or minimum cosine is below its floor or no number, or whose retrieval fell."""
        failures = [failure for row in (*self.languages, *self.probes) if (failure := _failure(row, self))]
        failures += [failure for one in self.evaluated if (failure := _loss(one, self))]
        return "; ".join(failures) or None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, rounded so that equal exports give equal bytes."""
        rows, probes, evaluated = (
            [rounded_values(asdict(row)) for row in part] for part in (self.languages, self.probes, self.evaluated)
        )
        figures = {name: getattr(self, name) for name in ("mean_cosine", "min_cosine", "max_difference")}
        floors = {
            "min_mean_cosine": self.min_mean_cosine_allowed,
            "min_cosine": self.min_cosine_allowed,
            "max_retrieval_loss": self.max_retrieval_loss_allowed,
        }
        record = {"floors": floors, **rounded_values(figures)}
        record |= {"languages": rows, "probes": probes}
        return {**record, "evaluated": evaluated} if evaluated else record

    def table(self) -> str:
        """Return a Markdown table, one language a row."""
        lines = [
            "| language | texts | cosine mean | cosine min | retrieval student | retrieval bundle |",
            "|---|---|---|---|---|---|",
        ]
        for row in (*self.languages, *self.probes):
            accuracies = " | ".join(
                "–" if accuracy is None else f"{accuracy:.1f}"
                for accuracy in (row.accuracy_student, row.accuracy_bundle)
            )
            lines.append(
                f"| {row.language} | {row.num_texts} | {row.mean_cosine:.5f} | {row.min_cosine:.5f} | {accuracies} |"
            )
        if self.evaluated:
            lines += ["", "On evaluation files, in points of 100:", "", evaluation_table(self.evaluated)]
        return "\n".join(lines)


def measure_fidelity(
    expected: Mapping[str, Embeddings],
    found: Mapping[str, Embeddings],
    *,
    parallel: bool,
    precision: Precision,
    settings: ExportSettings,
    probes: Mapping[str, tuple[Embeddings, Embeddings]] = MappingProxyType({}),
    evaluated: tuple[EvaluatedLanguage, ...] = (),
) -> FidelityReport:
    """Compare the student's vectors with the bundle's, language by language; the report's `refusal` judges.

    `probes` are pairs of the two by name. `parallel`: row i of every language says the same. Retrieval among the gate's
    own few texts is recorded only: one text more or less is already a point. It is judged on evaluation files.
    """
    pairs = {language: (before, found[language]) for language, before in expected.items()}
    return FidelityReport(
        languages=tuple(_compare(language, pairs, parallel=parallel) for language in pairs),
        probes=tuple(_compare(name, probes, parallel=False) for name in probes),
        max_difference=max(float(np.abs(before - after).max()) for before, after in pairs.values()),
        evaluated=evaluated,
        min_mean_cosine_allowed=settings.mean_cosine_floor(precision),
        min_cosine_allowed=settings.min_cosine,
        max_retrieval_loss_allowed=settings.max_retrieval_loss,
    )


def _failure(row: LanguageFidelity, report: FidelityReport) -> str | None:
    if not row.mean_cosine >= report.min_mean_cosine_allowed:
        return f"{row.language} mean cosine {row.mean_cosine:.5f} < {report.min_mean_cosine_allowed}"
    if not row.min_cosine >= report.min_cosine_allowed:
        return f"{row.language} minimum cosine {row.min_cosine:.5f} < {report.min_cosine_allowed}"
    return None


def _loss(row: EvaluatedLanguage, report: FidelityReport) -> str | None:
    if row.retrieval_student is None or row.retrieval_bundle is None:
        return None
    loss = row.retrieval_student - row.retrieval_bundle
    if not loss <= report.max_retrieval_loss_allowed + _ROUNDING:
        return f"{row.language} retrieval fell by {loss:.2f} points > {report.max_retrieval_loss_allowed}"
    return None


def _compare(language: str, pairs: Mapping[str, tuple[Embeddings, Embeddings]], *, parallel: bool) -> LanguageFidelity:
    before, after = pairs[language]
    cosines = np.sum(before.astype(np.float64) * after, axis=1)
    both_zero = ~before.any(axis=1) & ~after.any(axis=1)
    cosines[both_zero] = 1.0  # a text without a token: nothing lost
    judged = parallel and language != _PIVOT and _PIVOT in pairs
    return LanguageFidelity(
        language=language,
        num_texts=len(before),
        mean_cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        accuracy_student=100 * nearest_share(before, pairs[_PIVOT][0]).mean if judged else None,
        accuracy_bundle=100 * nearest_share(after, pairs[_PIVOT][1]).mean if judged else None,
    )


def rounded_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its floats cut to six digits, so that equal exports give equal bytes."""
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in record.items()}
