"""From a classifier student to a verified classifier bundle: the encoder's graph, a head, a softmax.

B batch, D width of the embedding, K labels, N texts
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kdserve.datatypes import Progress, no_progress
from kdserve.errors import FidelityError, FolderError
from kdserve.export.build import build_graph, candidates, require_graph
from kdserve.export.classifier_card import Agreement, classifier_card
from kdserve.export.layout import write_tokenizer
from kdserve.export.pairs import require_exact_products
from kdserve.export.reference import Reference
from kdserve.export.settings import ExportSettings
from kdserve.export.student import Student, read_student
from kdserve.export.texts import GateTexts, sample_gate_texts
from kdserve.export.weights import StaticWeights
from kdserve.manifest import MANIFEST_NAME, staged_folder, write_manifest
from kdserve.model_settings import read_student_settings
from kdserve.precisions import Precision
from kdserve.runtime.bundle import MODEL_NAME, TOKENIZER_NAME
from kdserve.runtime.classifier import Classifier, ClassifierSettings, Probabilities

HEAD_NAME = "head.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierExport:
    """What an export kept, and how it compares with its student."""

    precision: str
    size_bytes: int
    agreements: tuple[Agreement, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    weight_DK: npt.NDArray[np.float32]
    bias_K: npt.NDArray[np.float32]
    labels: tuple[str, ...]

    def probabilities(self, vectors_ND: npt.NDArray[np.float32]) -> Probabilities:
        logits = vectors_ND @ self.weight_DK + self.bias_K
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        rows: Probabilities = powers / powers.sum(axis=1, keepdims=True)
        return rows


def is_classifier(folder: Path) -> bool:
    """Say whether a student's folder is that of a classifier."""
    return (folder / MANIFEST_NAME).is_file() and bool(read_student_settings(folder).labels)


def export_classifier(
    student_folder: Path,
    out: Path,
    *,
    settings: ExportSettings,
    min_agreement: float = 0.98,
    texts: GateTexts | None = None,
    progress: Progress = no_progress,
) -> ClassifierExport:
    """Write a classifier student as a classifier bundle, after comparing the two on `texts` (default: the samples).

    `auto` takes the first of int8, w8 and fp32 that passes: its labels agree with the student's on at least
    `min_agreement` of each language's texts.

    Raises:
        FolderError: the student is damaged or of another kind, or `out` exists.
        FidelityError: a language fell below the floor; nothing was written.
    """
    with staged_folder(out) as folder:
        student = read_student(student_folder)
        require_graph(student, optimum_python=settings.optimum_python)
        head = _read_head(student)
        write_tokenizer(student, folder)
        judged = texts or sample_gate_texts(student.languages)
        expected = _ask_student(student, head, judged, progress)
        refusals = []
        for precision in candidates(student, settings.precision):
            described = _describe(student, head, precision.name)
            _write_graph(student, head, precision, folder, settings)
            agreements = _compare(
                Classifier(folder, described, fingerprint="", device="cpu", num_threads=1), judged, expected, progress
            )
            refusal = _refusal(agreements, min_agreement)
            if refusal is None:
                return _keep(folder, student, described, precision.name, agreements, min_agreement)
            refusals.append(f"{precision.name}: {refusal}")
        raise FidelityError(
            f"the bundle loses more than its floor allows: {'; '.join(refusals)}; nothing was written; choose a higher "
            "precision or lower the floor"
        )


def add_head(
    model: onnx.ModelProto, weight_DK: npt.NDArray[np.float32], bias_K: npt.NDArray[np.float32]
) -> onnx.ModelProto:
    """Put a linear head and a softmax behind `sentence_embedding`; the only output is `probabilities` (B, K).

    Products are summed row by row, not as one matrix product, whose kernel and rounding depend on the batch's size.
    """
    graph = model.graph
    constants = {"head_weight": weight_DK.T[None], "head_bias": bias_K, "head_axis": np.array([1], dtype=np.int64)}
    constants["head_last"] = np.array([2], dtype=np.int64)
    graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in constants.items())
    graph.node.extend(
        [
            helper.make_node("Unsqueeze", ["sentence_embedding", "head_axis"], ["head_vectors"]),
            helper.make_node("Mul", ["head_vectors", "head_weight"], ["head_products"]),
            helper.make_node("ReduceSum", ["head_products", "head_last"], ["head_sums"], keepdims=0),
            helper.make_node("Add", ["head_sums", "head_bias"], ["head_logits"]),
            helper.make_node("Softmax", ["head_logits"], ["probabilities"], axis=-1),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(bias_K)]))
    return model


def _read_head(student: Student) -> _Head:
    path, labels = student.folder / HEAD_NAME, student.labels
    if len(labels) < 2:
        raise FolderError(f"{student.folder} has {len(labels)} labels; a classifier needs two or more, distil it again")
    try:
        tensors = load_file(path)
        weight, bias = tensors["weight"].astype(np.float32), tensors["bias"].astype(np.float32)
    except (SafetensorError, OSError, KeyError) as error:
        raise FolderError(f"{path} cannot be read ({error}); distil the classifier again") from error
    if weight.shape != (len(labels), student.dim):
        found = " × ".join(map(str, weight.shape))
        raise FolderError(
            f"{path} has {found} weights for {len(labels)} labels and {student.dim} dimensions; distil again"
        )
    return _Head(weight_DK=np.ascontiguousarray(weight.T), bias_K=bias, labels=labels)


def _write_graph(student: Student, head: _Head, precision: Precision, folder: Path, settings: ExportSettings) -> None:
    model = build_graph(student, precision, folder / TOKENIZER_NAME, optimum_python=settings.optimum_python)
    model = add_head(model, head.weight_DK, head.bias_K)
    require_exact_products(model)
    (folder / MODEL_NAME).write_bytes(model.SerializeToString(deterministic=True))


def _ask_student(student: Student, head: _Head, texts: GateTexts, progress: Progress) -> dict[str, Probabilities]:
    reference = Reference(student)
    expected: dict[str, Probabilities] = {}
    for language, sentences in texts.by_language.items():
        progress("classify with the student", len(expected), len(texts.by_language))
        expected[language] = head.probabilities(reference.encode_document(sentences))
    progress("classify with the student", len(expected), len(expected))
    return expected


def _compare(
    bundle: Classifier, texts: GateTexts, expected: Mapping[str, Probabilities], progress: Progress
) -> tuple[Agreement, ...]:
    agreements: list[Agreement] = []
    for language, sentences in texts.by_language.items():
        progress(f"compare {bundle.settings.precision}", len(agreements), len(texts.by_language))
        before, after = expected[language], bundle.probabilities(sentences)
        agreements.append(
            Agreement(
                language=language,
                num_texts=len(sentences),
                same_label=float((before.argmax(axis=1) == after.argmax(axis=1)).mean()),
                variation=float(np.abs(before - after).sum(axis=1).mean() / 2),
            )
        )
    progress(f"compare {bundle.settings.precision}", len(agreements), len(agreements))
    return tuple(agreements)


def _refusal(agreements: tuple[Agreement, ...], floor: float) -> str | None:
    below = [f"{row.language} {row.same_label:.4f} < {floor}" for row in agreements if not row.same_label >= floor]
    return f"labels agree with the student's too rarely ({', '.join(below)})" if below else None


def _keep(
    folder: Path,
    student: Student,
    described: ClassifierSettings,
    precision: str,
    agreements: tuple[Agreement, ...],
    min_agreement: float,
) -> ClassifierExport:
    size_bytes = sum((folder / name).stat().st_size for name in (MODEL_NAME, TOKENIZER_NAME))
    card = classifier_card(described, agreements, size_bytes=size_bytes)
    (folder / "README.md").write_text(card, encoding="utf-8")
    rows = [{name: _rounded(value) for name, value in asdict(row).items()} for row in agreements]
    write_manifest(
        folder,
        kind="classifier",
        parents={**student.parents, "student": student.fingerprint},
        settings={**described.to_json(), "fidelity": {"floor": min_agreement, "languages": rows}},
    )
    return ClassifierExport(precision=precision, size_bytes=size_bytes, agreements=agreements)


def _describe(student: Student, head: _Head, precision: str) -> ClassifierSettings:
    return ClassifierSettings(
        name=student.name,
        family="static" if isinstance(student.weights, StaticWeights) else "transformer",
        precision=precision,
        max_tokens=student.max_tokens,
        labels=head.labels,
        languages=student.languages,
        weak_languages=student.weak_languages,
    )


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
