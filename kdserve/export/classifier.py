"""From a classifier student to a verified classifier bundle: the encoder's graph, a head, a softmax.

B batch, D width of the embedding, K labels, N texts
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kdserve.datatypes import Progress, no_progress
from kdserve.errors import FolderError
from kdserve.export.attempts import Export, Judgement, answer_by_language, describe_folder, keep_fastest
from kdserve.export.build import build_graph, candidates, require_graph
from kdserve.export.classifier_card import Agreement, classifier_card
from kdserve.export.gate import rounded_values
from kdserve.export.layout import write_tokenizer
from kdserve.export.read.student import StudentFolder, read_student
from kdserve.export.read.tensors import as_finite
from kdserve.export.reference import Reference
from kdserve.export.settings import ExportSettings
from kdserve.export.texts import GateTexts, sample_gate_texts
from kdserve.manifest import MANIFEST_NAME
from kdserve.model_settings import read_student_settings
from kdserve.modules import HEAD_NAME
from kdserve.precisions import Precision
from kdserve.runtime.bundle import TOKENIZER_NAME
from kdserve.runtime.classifier import Classifier, ClassifierSettings, Probabilities
from kdserve.staging import staged_folder


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
) -> Export[tuple[Agreement, ...]]:
    """Write a classifier student as a classifier bundle, after comparing the two on `texts` (default: the samples).

    A precision passes when its labels agree with the student's on at least `min_agreement` of each language's texts.

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
        encode = Reference(student).encode_document
        expected = answer_by_language(
            "classify with the student", judged, lambda own: head.probabilities(encode(own)), progress
        )

        def write(precision: Precision) -> onnx.ModelProto:
            tokenizer = folder / TOKENIZER_NAME
            model = build_graph(student, precision, tokenizer, optimum_python=settings.optimum_python)
            return add_head(model, head.weight_DK, head.bias_K)

        def judge(precision: Precision) -> Judgement[tuple[Agreement, ...]]:
            described = _describe(student, head, precision.name)
            bundle = Classifier(folder, described, fingerprint="", device="cpu", num_threads=1)
            found = answer_by_language(f"compare {precision.name}", judged, bundle.probabilities, progress)
            agreements = tuple(_compare(language, own, found[language]) for language, own in expected.items())
            return Judgement(report=agreements, refusal=_refusal(agreements, min_agreement), run=bundle.probabilities)

        precisions = candidates(student, settings.precision)
        done = keep_fastest(folder, precisions, write=write, judge=judge, texts=judged, progress=progress)
        described, agreements = _describe(student, head, done.kept.precision), done.kept.report
        describe_folder(
            folder,
            student,
            kind="classifier",
            settings=described,
            card=classifier_card(described, agreements, size_bytes=done.kept.size_bytes),
            fidelity={"floor": min_agreement, "languages": [rounded_values(asdict(row)) for row in agreements]},
        )
    return done


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


def _read_head(student: StudentFolder) -> _Head:
    path, labels = student.folder / HEAD_NAME, student.labels
    if len(labels) < 2:
        raise FolderError(f"{student.folder} has {len(labels)} labels; a classifier needs two or more, distil it again")
    try:
        tensors = load_file(path)
        weight, bias = (as_finite(name, tensors[name], path) for name in ("weight", "bias"))
    except (SafetensorError, OSError, KeyError) as error:
        raise FolderError(f"{path} cannot be read ({error}); distil the classifier again") from error
    if weight.shape != (len(labels), student.dim) or bias.shape != (len(labels),):
        found, more = (" × ".join(map(str, part.shape)) for part in (weight, bias))
        raise FolderError(
            f"{path} has {found} weights and {more} biases for {len(labels)} labels and {student.dim} dimensions; "
            "distil again"
        )
    return _Head(weight_DK=np.ascontiguousarray(weight.T), bias_K=bias, labels=labels)


def _compare(language: str, before: Probabilities, after: Probabilities) -> Agreement:
    return Agreement(
        language=language,
        num_texts=len(before),
        same_label=float((before.argmax(axis=1) == after.argmax(axis=1)).mean()),
        variation=float(np.abs(before - after).sum(axis=1).mean() / 2),
    )


def _refusal(agreements: tuple[Agreement, ...], floor: float) -> str | None:
    below = [f"{row.language} {row.same_label:.4f} < {floor}" for row in agreements if not row.same_label >= floor]
    return f"labels agree with the student's too rarely ({', '.join(below)})" if below else None


def _describe(student: StudentFolder, head: _Head, precision: str) -> ClassifierSettings:
    return ClassifierSettings(
        name=student.name,
        family=student.family,
        precision=precision,
        max_tokens=student.max_tokens,
        labels=head.labels,
        languages=student.languages,
        weak_languages=student.weak_languages,
    )
