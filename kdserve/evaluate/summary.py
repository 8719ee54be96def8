"""A figure for every language in short: the mean, and the worst as visible as the mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kdserve.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Mean and worst of a figure over languages; `missing` are those asked for that were not measured."""

    mean: float
    worst: float
    worst_language: str
    num_languages: int
    missing: tuple[str, ...] = ()


def summarise(by_language: Mapping[str, float], *, members: Collection[str] | None = None) -> Summary:
    """Sum up one figure a language (higher is better), over all languages or over a group of them.

    Raises:
        DataError: none of the languages was measured.
    """
    wanted = by_language.keys() if members is None else set(members)
    measured = {language: figure for language, figure in by_language.items() if language in wanted}
    if not measured:
        raise DataError(
            f"none of the languages {', '.join(sorted(wanted))} was measured; check --languages and --group"
        )
    worst = min(measured, key=lambda language: (measured[language], language))
    return Summary(
        mean=sum(measured.values()) / len(measured),
        worst=measured[worst],
        worst_language=worst,
        num_languages=len(measured),
        missing=tuple(sorted(wanted - measured.keys())),
    )
