"""Bundles there are to open, as their manifests describe them, without opening a model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from kdserve.errors import FolderError
from kdserve.manifest import MANIFEST_NAME, read_manifest
from kdserve.runtime.bundle import BundleSettings
from kdserve.runtime.classifier import ClassifierSettings
from kdserve.runtime.published import Published, find_bundle, published_names
from kdserve.runtime.sequence.settings import TranslatorSettings

KINDS: tuple[Published, ...] = ("bundle", "classifier", "translator")
_SETTINGS: Mapping[Published, type[BundleSettings] | type[ClassifierSettings] | type[TranslatorSettings]] = {
    "bundle": BundleSettings,
    "classifier": ClassifierSettings,
    "translator": TranslatorSettings,
}
MEASURED = Path(__file__).with_name("measured.json")
"""Search figures of published students, as `benchmarks/check.py` takes them from the records."""
_LEVELS = ("", "*/", "*/*/")
_MEASURES = (  # quality: the part of the gate's record, and its figure there
    ("sample translations", "languages", "accuracy_bundle"),
    ("translations", "evaluated", "retrieval_bundle"),
    ("similarity", "evaluated", "spearman_bundle"),
    ("chrF", "languages", "chrf_bundle"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueEntry:
    """One bundle, or classifier.

    `dim` is None for what gives no vectors; `labels` are a classifier's, `task` and `targets` a translator's. `quality`
    is what its export measured, in points of 100, mean over the languages: translations found in both directions to
    English, among the samples that the gate looks at or in evaluation files, Spearman's correlation with human
    judgement, and chrF of what a translator writes. Published students have before that how many questions of half of
    XQuAD-R find their paragraph, as an index orders hits, in the question's language ("search") and across eleven
    languages ("across"). Not all of it is recorded everywhere.
    """

    name: str
    kind: Published
    folder: Path
    family: str
    precision: str
    size_bytes: int
    max_tokens: int
    languages: tuple[str, ...]
    weak_languages: tuple[str, ...]
    dim: int | None = None
    labels: tuple[str, ...] = ()
    task: str = ""
    targets: tuple[str, ...] = ()
    quality: Mapping[str, float] = field(default_factory=dict)


def published_entries() -> list[CatalogueEntry]:
    """Describe what ships with this installation: encoders first, then classifiers and translators."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    entries = [
        describe_bundle(find_bundle(name, kind=kind), kind=kind) for kind in KINDS for name in published_names(kind)
    ]
    return [replace(entry, quality=measured.get(entry.name, {}) | dict(entry.quality)) for entry in entries]


def manifests_in(folder: Path) -> list[Path]:
    """List the folders with a manifest in `folder`, itself and two levels down, of whatever kind.

    Raises:
        FolderError: there is no such folder.
    """
    if not folder.is_dir():
        raise FolderError(f"there is no folder {folder}; name one that holds bundles")
    return sorted(path.parent for level in _LEVELS for path in folder.glob(f"{level}{MANIFEST_NAME}"))


def describe_bundle(folder: Path, *, kind: Published) -> CatalogueEntry:
    """Read what the manifest of a bundle, classifier or translator says; its other files are not looked at.

    Raises:
        FolderError: it is of another kind, damaged, or of another version.
    """
    manifest = read_manifest(folder, kind=kind)
    settings = _SETTINGS[kind].from_manifest(manifest, folder)
    return CatalogueEntry(
        name=settings.name,
        kind=kind,
        folder=folder,
        family=settings.family,
        precision=settings.precision,
        size_bytes=sum(record.size_bytes for record in manifest.files.values()),
        max_tokens=settings.max_tokens,
        languages=settings.languages,
        weak_languages=settings.weak_languages,
        dim=settings.dim if isinstance(settings, BundleSettings) else None,
        labels=settings.labels if isinstance(settings, ClassifierSettings) else (),
        task=settings.task if isinstance(settings, TranslatorSettings) else "",
        targets=settings.targets if isinstance(settings, TranslatorSettings) else (),
        quality=_quality(settings.fidelity, folder),
    )


def _quality(fidelity: Mapping[str, Any], folder: Path) -> dict[str, float]:
    try:
        recorded = {
            name: [row[figure] for row in fidelity.get(part, ()) if row.get(figure) is not None]
            for name, part, figure in _MEASURES
        }
        quality = {name: round(fmean(figures), 2) for name, figures in recorded.items() if figures}
        if not all(map(math.isfinite, quality.values())):
            raise ValueError("a figure is no finite number")
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise FolderError(f"{folder / MANIFEST_NAME} has no record of a gate ({error}); export again") from error
    return quality
