from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import quantize_dynamic
from sentence_transformers import SentenceTransformer
from tiny_students import LANGUAGES, tiny_static, tiny_transformer

from kdserve.errors import FidelityError, FolderError, RecipeError
from kdserve.export import ExportSettings, GateTexts, export_bundle
from kdserve.export.graphs.arithmetic import DynamicInt8, Float32
from kdserve.export.graphs.transformer import transformer_graph
from kdserve.export.read.student import read_student
from kdserve.export.read.weights import TransformerWeights
from kdserve.manifest import read_manifest
from kdserve.runtime import Encoder
from kdserve.runtime.session import open_graph
from kdserve.samples import parallel

TEXTS = [text for code in LANGUAGES for text in parallel()[code][:60] if len(text) < 45]  # none is cut
SHORT_GATE = GateTexts(by_language={code: parallel()[code][:20] for code in LANGUAGES}, parallel=True)


def export(student: Path, out: Path, precision: str) -> Encoder:
    settings = ExportSettings(precision=precision)
    export_bundle(student, out, settings=settings, texts=SHORT_GATE)
    return Encoder.load(out, num_threads=1)


@pytest.mark.parametrize("family", ["static", "transformer"])
def test_fp32_vectors_equal_sentence_transformers(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    student = request.getfixturevalue(family)
    model = SentenceTransformer(str(student), device="cpu")
    vectors = export(student, tmp_path / "bundle", "fp32").encode_document(TEXTS)
    np.testing.assert_allclose(vectors, model.encode(TEXTS, show_progress_bar=False), atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_transformer_text_has_one_vector_alone_and_in_any_batch(
    transformer: Path, tmp_path: Path, precision: str
) -> None:
    encoder = export(transformer, tmp_path / "bundle", precision)
    texts = [" ".join(TEXTS[i : i + 1 + i % 4]) for i in range(len(TEXTS))]
    together = encoder.encode_document(texts)
    assert together.tobytes() == np.concatenate([encoder.encode_document([text]) for text in texts]).tobytes()


def test_int8_bundle_agrees_with_student_on_every_language(transformer: Path, tmp_path: Path) -> None:
    export(transformer, tmp_path / "bundle", "int8")
    fidelity = read_manifest(tmp_path / "bundle", kind="bundle").settings["fidelity"]
    assert [row["language"] for row in fidelity["languages"]] == LANGUAGES
    assert all(row["mean_cosine"] >= 0.998 for row in fidelity["languages"])
    assert fidelity["min_cosine"] >= 0.985


@pytest.mark.parametrize(("precision", "lowest"), [("fp16", 0.9999), ("w8", 0.9995), ("int4", 0.95)])
@pytest.mark.parametrize("family", ["static", "transformer"])
def test_other_precisions_stay_near_the_student(
    family: str, precision: str, lowest: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    student = request.getfixturevalue(family)
    settings = ExportSettings(precision=precision, min_mean_cosine=lowest, min_cosine=lowest)
    export_bundle(student, tmp_path / "bundle", settings=settings, texts=SHORT_GATE)
    encoder = Encoder.load(tmp_path / "bundle", num_threads=1)
    together = encoder.encode_document(TEXTS)
    assert together.tobytes() == np.concatenate([encoder.encode_document([text]) for text in TEXTS]).tobytes()
    assert encoder.settings.precision == precision


def test_auto_keeps_the_fastest_that_passes(transformer: Path, tmp_path: Path) -> None:
    settings = ExportSettings(precision="auto", min_mean_cosine=0.99999, min_cosine=0.9999)
    done = export_bundle(transformer, tmp_path / "bundle", settings=settings, texts=SHORT_GATE)
    passed = [attempt for attempt in done.attempts if attempt.refusal is None]
    assert [attempt.precision for attempt in done.attempts] == ["int8", "w8", "fp32"]
    assert done.kept.texts_per_second == max(attempt.texts_per_second for attempt in passed)
    assert Encoder.load(tmp_path / "bundle").settings.precision == done.kept.precision
    assert sorted(path.name for path in (tmp_path / "bundle").glob("*.onnx")) == ["model.onnx"]


def test_dynamic_int8_is_onnxruntime_s_own_but_for_the_rounding_of_weights(transformer: Path, tmp_path: Path) -> None:
    weights = read_student(transformer).weights
    assert isinstance(weights, TransformerWeights)
    onnx.save(transformer_graph(weights, Float32(), table_bits=32), tmp_path / "fp32.onnx")
    quantize_dynamic(
        tmp_path / "fp32.onnx",
        tmp_path / "theirs.onnx",
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    ids = np.random.default_rng(1).integers(4, 1000, (5, 16))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    ours = transformer_graph(weights, DynamicInt8(), table_bits=32).SerializeToString()
    vectors = [open_graph(graph).run(["sentence_embedding"], feeds)[0] for graph in (ours, tmp_path / "theirs.onnx")]
    assert np.sum(vectors[0] * vectors[1], axis=1).min() > 0.999


def test_dynamic_int8_changes_with_the_batch_and_its_card_says_so(transformer: Path, tmp_path: Path) -> None:
    settings = ExportSettings(precision="dynamic-int8", min_mean_cosine=0.9, min_cosine=0.9)
    export_bundle(transformer, tmp_path / "bundle", settings=settings, texts=SHORT_GATE)
    assert "changes with the texts beside it" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    encoder = Encoder.load(tmp_path / "bundle")
    together = encoder.encode_document(TEXTS)
    assert together.tobytes() != np.concatenate([encoder.encode_document([text]) for text in TEXTS]).tobytes()


def test_int8_files_are_a_quarter_of_fp32(static: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "int8"):
        export(static, tmp_path / precision, precision)
    sizes = [(tmp_path / precision / "model.onnx").stat().st_size for precision in ("fp32", "int8")]
    assert sizes[1] < 0.28 * sizes[0]


@pytest.mark.parametrize("make", [tiny_static, tiny_transformer])
def test_a_table_on_a_4_bit_grid_is_stored_in_4_bits_without_loss(make, tmp_path: Path) -> None:
    student = make(tmp_path / "student", table_bits=4)
    snap_table_to_grid(student)
    vectors = export(student, tmp_path / "bundle", "int8").encode_document(TEXTS)
    reference = SentenceTransformer(str(student), device="cpu").encode(TEXTS, show_progress_bar=False)
    cosines = np.sum(vectors * reference, axis=1)
    assert cosines.min() > (0.999999 if make is tiny_static else 0.999)


def snap_table_to_grid(student: Path) -> None:
    """Round the student's table as training for 4 bits would: blocks of 32 on -8..7 times a scale."""
    from safetensors.numpy import load_file, save_file

    from kdserve.manifest import write_manifest

    path = student / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in ("embedding.weight", "embeddings.word_embeddings.weight") if name in tensors)
    blocks = tensors[name].reshape(len(tensors[name]), -1, 32)
    scale = np.abs(blocks).max(axis=-1, keepdims=True) / 7
    tensors[name] = (np.rint(blocks / np.maximum(scale, 1e-9)) * scale).reshape(tensors[name].shape)
    save_file(tensors, path, metadata={"format": "pt"})
    settings = json.loads((student / "kdserve.json").read_text(encoding="utf-8"))["settings"]
    write_manifest(student, kind="student", parents={"teacher": "0" * 64}, settings=settings)


def test_equal_students_give_byte_identical_bundles(static: Path, tmp_path: Path) -> None:
    first, second = (export(static, tmp_path / name, "int8") for name in ("first", "second"))
    assert first.fingerprint == second.fingerprint


def test_a_bundle_knows_its_parents(transformer: Path, tmp_path: Path) -> None:
    export(transformer, tmp_path / "bundle", "fp32")
    manifest = read_manifest(tmp_path / "bundle", kind="bundle")
    student = read_manifest(transformer, kind="student").fingerprint
    assert manifest.parents == {"student": student, "teacher": "0" * 64}
    assert manifest.settings["weak_languages"] == ["ja"]
    assert manifest.settings["widths"] == [32]


def test_the_card_tells_every_language(static: Path, tmp_path: Path) -> None:
    export(static, tmp_path / "bundle", "int8")
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert all(f"| {code} | 20 | 0.99" in card for code in LANGUAGES)
    assert "Weak languages, below the others in quality: ja." in card


def test_below_the_floor_nothing_is_written_and_the_language_is_named(transformer: Path, tmp_path: Path) -> None:
    settings = ExportSettings(precision="int8", min_mean_cosine=1.0)
    with pytest.raises(FidelityError, match=r"de mean cosine 0\.99\d+ < 1\.0"):
        export_bundle(transformer, tmp_path / "bundle", settings=settings, texts=SHORT_GATE)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused(static: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(FolderError, match="exists already"):
        export_bundle(static, tmp_path / "bundle", settings=ExportSettings(), texts=SHORT_GATE)


def test_a_bundle_is_no_student(static: Path, tmp_path: Path) -> None:
    export(static, tmp_path / "bundle", "int8")
    with pytest.raises(FolderError, match="is a bundle, not a student"):
        export_bundle(tmp_path / "bundle", tmp_path / "again", settings=ExportSettings())


def test_a_floor_that_is_no_cosine_is_refused() -> None:
    with pytest.raises(RecipeError, match="a cosine lies between"):
        ExportSettings(min_mean_cosine=99.8)
    for loss in (-1.0, float("nan")):
        with pytest.raises(RecipeError, match="give points, 0 or more"):
            ExportSettings(max_retrieval_loss=loss)
