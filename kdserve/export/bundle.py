"""From a student folder to a verified bundle folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdserve.datatypes import Embeddings, Progress, no_progress
from kdserve.export.attempts import Export, Judgement, answer_by_language, describe_folder, keep_fastest
from kdserve.export.build import build_graph, candidates, require_graph
from kdserve.export.card import bundle_card
from kdserve.export.evaluated import Evaluate, Evaluation, compare_evaluations
from kdserve.export.gate import FidelityReport, measure_fidelity
from kdserve.export.layout import write_layout
from kdserve.export.read.student import StudentFolder, read_student
from kdserve.export.reference import Reference
from kdserve.export.settings import ExportSettings
from kdserve.export.texts import GateTexts, Probe, probe_texts, sample_gate_texts
from kdserve.precisions import Precision
from kdserve.runtime import Encoder
from kdserve.runtime.bundle import TOKENIZER_NAME, Bundle, BundleSettings
from kdserve.staging import staged_folder


def export_bundle(
    student_folder: Path,
    out: Path,
    *,
    settings: ExportSettings,
    texts: GateTexts | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress = no_progress,
) -> Export[FidelityReport]:
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
        done = keep_fastest(
            folder,
            candidates(student, settings.precision),
            write=lambda one: build_graph(
                student, one, folder / TOKENIZER_NAME, optimum_python=settings.optimum_python
            ),
            judge=lambda one: _judge(student, one, folder, target, settings, progress),
            texts=judged,
            progress=progress,
        )
        described, report = _describe(student, done.kept.precision, target.dim), done.kept.report
        card = bundle_card(described, report, size_bytes=done.kept.size_bytes)
        describe_folder(folder, student, kind="bundle", settings=described, card=card, fidelity=report.to_json())
    return done


@dataclass(frozen=True, kw_only=True, slots=True)
class _Target:
    """Answers of the student, which its bundle is to give too."""

    texts: GateTexts
    vectors: Mapping[str, Embeddings]
    probes: Sequence[Probe]
    probed: Sequence[Embeddings]
    evaluate: Evaluate | None
    evaluation: Evaluation

    @property
    def dim(self) -> int:
        return int(next(iter(self.vectors.values())).shape[1])


def _measure_student(
    student: StudentFolder, texts: GateTexts, evaluate: Evaluate | None, progress: Progress
) -> _Target:
    reference = Reference(student)
    vectors = answer_by_language("embed with the student", texts, reference.encode_document, progress)
    probes = probe_texts(texts, max_tokens=student.max_tokens)
    return _Target(
        texts=texts,
        vectors=vectors,
        probes=probes,
        probed=[reference.encode(probe.texts, role=probe.role) for probe in probes],
        evaluate=evaluate,
        evaluation=evaluate(reference) if evaluate else Evaluation(),
    )


def _judge(
    student: StudentFolder,
    precision: Precision,
    folder: Path,
    target: _Target,
    settings: ExportSettings,
    progress: Progress,
) -> Judgement[FidelityReport]:
    described = _describe(student, precision.name, target.dim)
    encoder = Encoder(Bundle(folder=folder, fingerprint="", settings=described), device="cpu", num_threads=1)
    found = answer_by_language(f"compare {precision.name}", target.texts, encoder.encode_document, progress)
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
    return Judgement(report=report, refusal=report.refusal, run=encoder.encode_document)


def _describe(student: StudentFolder, precision: str, dim: int) -> BundleSettings:
    return BundleSettings(
        name=student.name,
        family=student.family,
        precision=precision,
        dim=dim,
        max_tokens=student.max_tokens,
        languages=student.languages,
        weak_languages=student.weak_languages,
        prompts=student.prompts,
        widths=tuple(width for width in student.widths if width < dim),
    )
