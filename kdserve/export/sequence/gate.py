"""The gate of bundles that write: compared with their student, language by language, and refused where they lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdserve.errors import RecipeError
from kdserve.evaluate.translation import TranslationPairs
from kdserve.evaluate.writing import corpus_chrf, is_circle, share
from kdserve.export.gate import rounded_values
from kdserve.samples import parallel

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class WritingFloors:
    """What a bundle may lose, in every language: points of chrF against references, and a share of outputs that are
    empty or go in circles where the student's are not. Without references the student's own outputs stand for them, and
    `min_agreement` is the lowest chrF.
    """

    max_chrf_loss: float = 1.0
    max_spoilt: float = 0.01
    min_agreement: float = 70.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_spoilt <= 1 or not 0 <= self.min_agreement <= 100 or not self.max_chrf_loss >= 0:
            raise RecipeError(f"the floors {asdict(self)} lie outside of their ranges; give points and shares")


@dataclass(frozen=True, kw_only=True, slots=True)
class GatePairs:
    """Sources by language, and references row by row, or none."""

    sources: Mapping[str, Sequence[str]]
    references: Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageLoss:
    """One language: chrF of student and bundle against the references (None without), `agreement` of the bundle with
    the student likewise, and the shares of outputs that are empty or circles.
    """

    language: str
    num_texts: int
    chrf_student: float | None
    chrf_bundle: float | None
    agreement: float
    spoilt_student: float
    spoilt_bundle: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WritingReport:
    """What a bundle lost against its student. `same_as_transformers` is the share of a few texts whose tokens agree."""

    languages: tuple[LanguageLoss, ...]
    same_as_transformers: float
    floors: WritingFloors

    @property
    def refusal(self) -> str | None:
        """Every language that lost more than its floor allows."""
        return "; ".join(failure for row in self.languages if (failure := _failure(row, self.floors))) or None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, rounded so that equal exports give equal bytes."""
        rows = [rounded_values(asdict(row)) for row in self.languages]
        same = {"same_as_transformers": self.same_as_transformers}
        return {"floors": asdict(self.floors), **rounded_values(same), "languages": rows}

    def table(self) -> str:
        """Return a Markdown table, one language a row."""
        lines = [
            "| language | texts | chrF student | chrF bundle | agreement, chrF | empty or circling |",
            "|---|---|---|---|---|---|",
        ]
        for row in self.languages:
            before, after = (
                "–" if figure is None else f"{figure:.1f}" for figure in (row.chrf_student, row.chrf_bundle)
            )
            cells = f"{before} | {after} | {row.agreement:.1f} | {100 * row.spoilt_bundle:.1f} %"
            lines.append(f"| {row.language} | {row.num_texts} | {cells} |")
        return "\n".join(lines)


def sample_pairs(languages: Sequence[str], target: str) -> GatePairs:
    """Return the sample corpus in those of its languages that are read, with references where it has the target."""
    corpus = parallel()
    sources = {code: texts for code, texts in corpus.items() if code in languages and code != target}
    if not sources:
        sources = {code: texts for code, texts in corpus.items() if code != target}
    references = dict.fromkeys(sources, corpus[target]) if target in corpus else {}
    return GatePairs(sources=sources, references=references)


def pairs_for_gate(pairs: Sequence[TranslationPairs]) -> GatePairs:
    """Return pairs of a file, the domains of a language together."""
    sources: dict[str, list[str]] = {}
    references: dict[str, list[str]] = {}
    for one in pairs:
        sources.setdefault(one.language, []).extend(one.sources)
        references.setdefault(one.language, []).extend(one.targets)
    return GatePairs(sources=sources, references=references)


def measure_loss(
    pairs: GatePairs,
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    *,
    same_as_transformers: float,
    floors: WritingFloors,
) -> WritingReport:
    """Compare a bundle's outputs, `after`, with its student's, language by language; the report's `refusal` judges."""
    rows = []
    for language, sources in pairs.sources.items():
        student, bundle, references = before[language], after[language], pairs.references.get(language)
        rows.append(
            LanguageLoss(
                language=language,
                num_texts=len(sources),
                chrf_student=None if references is None else corpus_chrf(student, references),
                chrf_bundle=None if references is None else corpus_chrf(bundle, references),
                agreement=corpus_chrf(bundle, student),
                spoilt_student=_spoilt(student),
                spoilt_bundle=_spoilt(bundle),
            )
        )
    return WritingReport(languages=tuple(rows), same_as_transformers=same_as_transformers, floors=floors)


def _spoilt(outputs: Sequence[str]) -> float:
    return share(not output.strip() or is_circle(output) for output in outputs)


def _failure(row: LanguageLoss, floors: WritingFloors) -> str | None:
    if row.chrf_student is not None and row.chrf_bundle is not None:
        if not row.chrf_student - row.chrf_bundle <= floors.max_chrf_loss + _ROUNDING:
            lost = row.chrf_student - row.chrf_bundle
            return f"{row.language} lost {lost:.2f} points of chrF > {floors.max_chrf_loss}"
    elif not row.agreement >= floors.min_agreement:
        return f"{row.language} agrees with the student by {row.agreement:.1f} chrF < {floors.min_agreement}"
    if not row.spoilt_bundle - row.spoilt_student <= floors.max_spoilt + _ROUNDING:
        more = 100 * (row.spoilt_bundle - row.spoilt_student)
        return (
            f"{row.language} has {more:.1f} % more outputs that are empty or circling > {100 * floors.max_spoilt:g} %"
        )
    return None
