"""From a student that writes to a verified bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from kdserve.datatypes import Progress, no_progress
from kdserve.errors import FidelityError, RecipeError
from kdserve.export.attempts import Attempt, Export
from kdserve.export.sequence.build import write_sequence, write_tokenizers
from kdserve.export.sequence.card import translator_card
from kdserve.export.sequence.gate import GatePairs, WritingFloors, WritingReport, measure_loss, sample_pairs
from kdserve.export.sequence.reference import Reference
from kdserve.export.sequence.student import SequenceStudent, read_sequence_student
from kdserve.manifest import write_manifest
from kdserve.model_settings import SequenceSettings
from kdserve.precisions import PRECISIONS, Precision
from kdserve.runtime.sequence.settings import TranslatorBundle, TranslatorSettings
from kdserve.runtime.sequence.translator import Translator
from kdserve.staging import staged_folder

SEQUENCE_PRECISIONS = ("fp32", "int8")
_COMPARED_TEXTS = 24
_LEAST_AGREEMENT = 0.8


def export_translator(
    student_folder: Path,
    out: Path,
    *,
    precision: str,
    plain: SequenceSettings,
    pairs: GatePairs | None = None,
    floors: WritingFloors | None = None,
    progress: Progress = no_progress,
) -> Export[WritingReport]:
    """Write a student that writes as a bundle, after comparing the two on `pairs` (default: the sample corpus).

    `plain` is what a folder without a manifest does not say of itself.

    Raises:
        RecipeError: the precision is neither fp32 nor int8.
        FolderError: the student is damaged or of another kind, or `out` exists.
        FidelityError: a language fell below a floor; nothing was written.
        MissingExtraError: sacrebleu is not installed.
    """
    if precision not in SEQUENCE_PRECISIONS:
        raise RecipeError(f"a student that writes is exported as {' or '.join(SEQUENCE_PRECISIONS)}, not {precision}")
    with staged_folder(out) as folder:
        student = read_sequence_student(student_folder, plain=plain)
        target = next(iter(student.settings.targets), "")
        theirs = Reference(student)
        judged = pairs or sample_pairs((*student.settings.languages, *student.settings.weak_languages), target)
        aside = folder / "fp32"
        aside.mkdir()
        exact = _write(student, PRECISIONS["fp32"], aside, progress)
        same = _require_same_tokens(student, theirs, exact, judged)
        before = _outputs("write with the student", exact, judged, progress)
        after = before
        if precision == "fp32":
            for path in aside.iterdir():
                path.rename(folder / path.name)
        else:
            bundle = _write(student, PRECISIONS[precision], folder, progress)
            after = _outputs(f"write with {precision}", bundle, judged, progress)
        shutil.rmtree(aside)
        report = measure_loss(judged, before, after, same_as_transformers=same, floors=floors or WritingFloors())
        if report.refusal:
            raise FidelityError(f"the bundle loses more than its floor allows: {report.refusal}; nothing was written")
        kept = _describe(student, PRECISIONS[precision], folder, report)
    return Export(kept=kept, attempts=(kept,))


def _write(student: SequenceStudent, precision: Precision, folder: Path, progress: Progress) -> Translator:
    progress(f"write {precision.name}", 0, 1)
    write_tokenizers(student, folder)
    write_sequence(student, precision, folder)
    progress(f"write {precision.name}", 1, 1)
    bundle = TranslatorBundle(folder=folder, fingerprint="", settings=_settings(student, precision))
    return Translator(bundle, device="cpu", num_threads=1)


def _settings(student: SequenceStudent, precision: Precision) -> TranslatorSettings:
    shared = student.settings.shared() | {"family": "sequence"}
    return TranslatorSettings(**shared, precision=precision.name, generation=student.generation)


def _require_same_tokens(student: SequenceStudent, theirs: Reference, exact: Translator, pairs: GatePairs) -> float:
    mixed = (text for row in zip_longest(*pairs.sources.values()) for text in row if text is not None)
    texts = list(islice(mixed, _COMPARED_TEXTS))
    same = theirs.agreement(exact, texts)
    if same < _LEAST_AGREEMENT:  # rounding may part two tokens that are as likely as each other
        raise FidelityError(
            f"{student.folder} writes the same as transformers for {100 * same:.0f} % of {len(texts)} texts only; "
            "its graphs would not be its own, nothing was written"
        )
    return same


def _outputs(what: str, translator: Translator, pairs: GatePairs, progress: Progress) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for language, texts in pairs.sources.items():
        progress(what, len(found), len(pairs.sources))
        known = language if language in translator.settings.source_tokens else ""
        found[language] = translator.translate(texts, source=known or next(iter(translator.settings.source_tokens), ""))
    progress(what, len(found), len(found))
    return found


def _describe(
    student: SequenceStudent, precision: Precision, folder: Path, report: WritingReport
) -> Attempt[WritingReport]:
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    described = _settings(student, precision)
    card = translator_card(described, report, size_bytes=size_bytes)
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_manifest(
        folder,
        kind="translator",
        parents={**student.parents, "student": student.fingerprint},
        settings={**described.to_json(), "fidelity": report.to_json()},
    )
    return Attempt(precision=precision.name, report=report, size_bytes=size_bytes, texts_per_second=0.0, refusal=None)
