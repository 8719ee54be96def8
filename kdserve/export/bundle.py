"""From a student folder to a verified bundle folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from kdserve.datatypes import Progress, TokenBatch, no_progress
from kdserve.export.arithmetic import Float32
from kdserve.export.bert import bert_graph
from kdserve.export.card import bundle_card
from kdserve.export.gate import FidelityReport, check_fidelity, measure_fidelity
from kdserve.export.reference import Reference
from kdserve.export.settings import ExportSettings
from kdserve.export.smoothing import smoothed_int8_graph
from kdserve.export.static import static_graph
from kdserve.export.student import StaticWeights, Student, read_student
from kdserve.export.table import TableBits
from kdserve.export.texts import GateTexts, calibration_texts, sample_gate_texts
from kdserve.manifest import staged_folder, write_manifest
from kdserve.runtime import Encoder
from kdserve.runtime.batches import make_batches
from kdserve.runtime.bundle import MODEL_NAME, TOKENIZER_NAME, Bundle, BundleSettings
from kdserve.runtime.tokens import TextTokenizer

_CALIBRATION_TOKENS = 2048


def export_bundle(
    student_folder: Path,
    out: Path,
    *,
    settings: ExportSettings,
    texts: GateTexts | None = None,
    progress: Progress = no_progress,
) -> FidelityReport:
    """Write a student as a bundle folder, after comparing the two on `texts` (default: the sample corpus).

    Raises:
        FolderError: the student is damaged or of another kind, or `out` exists.
        FidelityError: a language fell below a floor; nothing was written.
    """
    student = read_student(student_folder)
    with staged_folder(out) as folder:
        (folder / TOKENIZER_NAME).write_text(_compact(_bundle_tokenizer(student)), encoding="utf-8")
        progress("write the graph", 0, 1)
        model = _write_graph(student, settings, folder / TOKENIZER_NAME)
        (folder / MODEL_NAME).write_bytes(model.SerializeToString(deterministic=True))
        progress("write the graph", 1, 1)
        described = _bundle_settings(student, settings)
        encoder = Encoder(Bundle(folder=folder, fingerprint="", settings=described), device="cpu", num_threads=1)
        report = measure_fidelity(
            Reference(student.folder, max_tokens=student.max_tokens).embed,
            encoder.encode_document,
            texts or sample_gate_texts(student.languages),
            settings=settings,
            progress=progress,
        )
        check_fidelity(report)
        size_bytes = sum(path.stat().st_size for path in folder.iterdir())
        (folder / "README.md").write_text(bundle_card(described, report, size_bytes=size_bytes), encoding="utf-8")
        write_manifest(
            folder,
            kind="bundle",
            parents={**student.parents, "student": student.fingerprint},
            settings={**described.to_json(), "fidelity": report.to_json()},
        )
    return report


def _write_graph(student: Student, settings: ExportSettings, tokenizer: Path) -> onnx.ModelProto:
    bits: TableBits = 32
    if settings.precision == "int8":
        bits = 4 if student.table_bits == 4 else 8
    if isinstance(student.weights, StaticWeights):
        return static_graph(student.weights, table_bits=bits)
    if settings.precision == "fp32":
        return bert_graph(student.weights, Float32(), table_bits=bits)
    texts = calibration_texts(student.languages)
    reader = TextTokenizer(tokenizer, max_tokens=student.max_tokens, parallel=False)
    ranges, development = (_batches(reader, part) for part in (texts.ranges, texts.development))
    return smoothed_int8_graph(student.weights, ranges=ranges, development=development, table_bits=bits).model


def _batches(reader: TextTokenizer, texts: list[str]) -> list[TokenBatch]:
    ids = reader.tokenize(texts).ids
    return [batch for _, batch in make_batches(ids, max_batch_tokens=_CALIBRATION_TOKENS, pad_id=reader.pad_id)]


def _bundle_settings(student: Student, settings: ExportSettings) -> BundleSettings:
    return BundleSettings(
        name=student.name,
        family="static" if isinstance(student.weights, StaticWeights) else "transformer",
        precision=settings.precision,
        dim=student.weights.table.shape[1],
        max_tokens=student.max_tokens,
        languages=student.languages,
        weak_languages=student.weak_languages,
    )


def _bundle_tokenizer(student: Student) -> dict[str, Any]:
    """Return the student's tokenizer with its limit and padding inside, so that other runtimes find them too."""
    tokenizer = dict(student.tokenizer)
    tokenizer["truncation"] = {
        "direction": "Right",
        "max_length": student.max_tokens,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokenizer["padding"] = student.pad_token and {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": added[student.pad_token],
        "pad_type_id": 0,
        "pad_token": student.pad_token,
    }
    return tokenizer


def _compact(tokenizer: dict[str, Any]) -> str:
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
