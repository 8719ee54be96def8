"""From a student folder to a verified bundle folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdserve.datatypes import Embeddings, Progress, no_progress
from kdserve.errors import FidelityError
from kdserve.export.build import build_graph, candidates, require_graph
from kdserve.export.card import bundle_card
from kdserve.export.evaluated import Evaluate, Evaluation, compare_evaluations
from kdserve.export.gate import FidelityReport, check_fidelity, measure_fidelity
from kdserve.export.layout import write_layout
from kdserve.export.pairs import require_exact_products
from kdserve.export.reference import Reference
from kdserve.export.settings import ExportSettings
from kdserve.export.student import Student, read_student
from kdserve.export.texts import GateTexts, Probe, probe_texts, sample_gate_texts
from kdserve.export.weights import StaticWeights
from kdserve.manifest import staged_folder, write_manifest
from kdserve.precisions import Precision
from kdserve.runtime import Encoder
from kdserve.runtime.bundle import MODEL_NAME, TOKENIZER_NAME, Bundle, BundleSettings

_TIMED_TEXTS = 256
_TIMED_RUNS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One precision, tried. `refusal` is why the gate let it not pass; speed is of one thread, here and now."""

    precision: str
    report: FidelityReport
    size_bytes: int
    texts_per_second: float
    refusal: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What an export did: every precision that it tried, and the one that it kept."""

    kept: Attempt
    attempts: tuple[Attempt, ...]


def export_bundle(
    student_folder: Path,
    out: Path,
    *,
    settings: ExportSettings,
    texts: GateTexts | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress = no_progress,
) -> Export:
    """Write a student as a bundle folder, after comparing the two on `texts` (default: the sample corpus), and with
    `evaluate` on what it measures.

    Raises:
        FolderError: the student is damaged or of another kind, or `out` exists.
        FidelityError: a language fell below a floor; nothing was written.
    """
    with staged_folder(out) as folder:
        student = read_student(student_folder, languages=settings.languages, name=settings.name)
        require_graph(student, optimum_python=settings.optimum_python)
        write_layout(student, folder)
        judged = texts or sample_gate_texts(student.languages)
        target = _measure_student(student, judged, evaluate, progress)
        attempts = [
            _attempt(student, precision, folder, target, settings, progress)
            for precision in candidates(student, settings.precision)
        ]
        passed = [attempt for attempt in attempts if attempt.refusal is None]
        if not passed:
            raise FidelityError("; ".join(f"{attempt.precision}: {attempt.refusal}" for attempt in attempts))
        kept = max(passed, key=lambda attempt: attempt.texts_per_second)
        _keep(folder, student, kept, [attempt.precision for attempt in attempts], target.dim)
    return Export(kept=kept, attempts=tuple(attempts))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Target:
    """What the student says, which its bundle is to say too."""

    texts: GateTexts
    vectors: Mapping[str, Embeddings]
    probes: Sequence[Probe]
    probed: Sequence[Embeddings]
    evaluate: Evaluate | None
    evaluation: Evaluation

    @property
    def dim(self) -> int:
        return int(next(iter(self.vectors.values())).shape[1])


def _measure_student(student: Student, texts: GateTexts, evaluate: Evaluate | None, progress: Progress) -> _Target:
    reference = Reference(student)
    vectors: dict[str, Embeddings] = {}
    for language, sentences in texts.by_language.items():
        progress("embed with the student", len(vectors), len(texts.by_language))
        vectors[language] = reference.encode_document(sentences)
    progress("embed with the student", len(vectors), len(vectors))
    probes = probe_texts(texts, max_tokens=student.max_tokens)
    return _Target(
        texts=texts,
        vectors=vectors,
        probes=probes,
        probed=[reference.encode(probe.texts, role=probe.role) for probe in probes],
        evaluate=evaluate,
        evaluation=evaluate(reference) if evaluate else Evaluation(),
    )


def _attempt(
    student: Student, precision: Precision, folder: Path, target: _Target, settings: ExportSettings, progress: Progress
) -> Attempt:
    """Write one precision's graph beside the others and judge it."""
    progress(f"write {precision.name}", 0, 1)
    path = folder / f"{precision.name}.onnx"
    graph = build_graph(student, precision, folder / TOKENIZER_NAME, optimum_python=settings.optimum_python)
    require_exact_products(graph)
    path.write_bytes(graph.SerializeToString(deterministic=True))
    path.rename(folder / MODEL_NAME)  # an Encoder opens what has the final name
    described = _describe(student, precision.name, target.dim)
    encoder = Encoder(Bundle(folder=folder, fingerprint="", settings=described), device="cpu", num_threads=1)
    progress(f"write {precision.name}", 1, 1)
    found: dict[str, Embeddings] = {}
    for language, sentences in target.texts.by_language.items():
        progress(f"compare {precision.name}", len(found), len(target.texts.by_language))
        found[language] = encoder.encode_document(sentences)
    progress(f"compare {precision.name}", len(found), len(found))
    evaluation = target.evaluate(encoder) if target.evaluate else Evaluation()
    report = measure_fidelity(
        target.vectors,
        found,
        parallel=target.texts.parallel,
        precision=precision,
        settings=settings,
        probes={
            probe.name: (expected, encoder.encode_tokens(encoder.tokenize(probe.texts, role=probe.role).ids))
            for probe, expected in zip(target.probes, target.probed, strict=True)
        },
        evaluated=compare_evaluations(target.evaluation, evaluation),
    )
    (folder / MODEL_NAME).rename(path)
    try:
        check_fidelity(report)
        refusal = None
    except FidelityError as error:
        refusal = str(error)
    return Attempt(
        precision=precision.name,
        report=report,
        size_bytes=path.stat().st_size + (folder / TOKENIZER_NAME).stat().st_size,
        texts_per_second=_speed(encoder, target.texts),
        refusal=refusal,
    )


def _speed(encoder: Encoder, texts: GateTexts) -> float:
    """Return texts a second on one thread: the median of a few runs over a mix of all languages."""
    mixed = [text for row in zip(*texts.by_language.values(), strict=False) for text in row][:_TIMED_TEXTS]
    seconds = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        encoder.encode_document(mixed)
        seconds.append(time.perf_counter() - start)
    return len(mixed) / float(np.median(seconds))


def _keep(folder: Path, student: Student, kept: Attempt, tried: Sequence[str], dim: int) -> None:
    """Leave the chosen graph under its final name, with card and manifest."""
    (folder / f"{kept.precision}.onnx").rename(folder / MODEL_NAME)
    for precision in set(tried) - {kept.precision}:
        (folder / f"{precision}.onnx").unlink()
    described = _describe(student, kept.precision, dim)
    card = bundle_card(described, kept.report, size_bytes=kept.size_bytes)
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_manifest(
        folder,
        kind="bundle",
        parents={**student.parents, "student": student.fingerprint},
        settings={**described.to_json(), "fidelity": kept.report.to_json()},
    )


def _describe(student: Student, precision: str, dim: int) -> BundleSettings:
    return BundleSettings(
        name=student.name,
        family="static" if isinstance(student.weights, StaticWeights) else "transformer",
        precision=precision,
        dim=dim,
        max_tokens=student.max_tokens,
        languages=student.languages,
        weak_languages=student.weak_languages,
        prompts=student.prompts,
        widths=tuple(width for width in student.widths if width < dim),
    )
