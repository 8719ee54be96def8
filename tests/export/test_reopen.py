from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny_classifiers import tiny_classifier
from tiny_students import LANGUAGES, tiny_plain, tiny_static, tiny_transformer
from typer.testing import CliRunner

from kdserve import Classifier, Encoder
from kdserve.cli import app
from kdserve.errors import FolderError
from kdserve.export import ExportSettings, GateTexts, export_bundle, export_classifier, reopen_bundle
from kdserve.manifest import read_manifest, verify_folder, write_manifest
from kdserve.model_settings import read_student_settings
from kdserve.samples import parallel

TEXTS = [text for code in LANGUAGES for text in parallel()[code][:20] if len(text) < 35]
GATE = GateTexts(by_language={code: parallel()[code][:10] for code in LANGUAGES}, parallel=True)


def export(student: Path, out: Path, precision: str) -> Path:
    settings = ExportSettings(precision=precision, min_mean_cosine=0.9, min_cosine=0.9)
    export_bundle(student, out, settings=settings, texts=GATE)
    return out


def cosines(student: Path, vectors: np.ndarray) -> np.ndarray:
    model = SentenceTransformer(str(student), device="cpu")
    return np.sum(model.encode(TEXTS, prompt_name="document", normalize_embeddings=True) * vectors, axis=1)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "w8", "int4"])
@pytest.mark.parametrize("make", [tiny_static, tiny_transformer])
def test_a_bundle_opens_again_as_the_student_that_it_is(make, precision: str, tmp_path: Path) -> None:
    bundle = export(make(tmp_path / "student"), tmp_path / "bundle", precision)
    reopen_bundle(bundle, tmp_path / "again")
    assert cosines(tmp_path / "again", Encoder.load(bundle).encode_document(TEXTS)).min() > 0.999
    manifest = verify_folder(tmp_path / "again", kind="student")
    assert manifest.parents == {"bundle": Encoder.load(bundle).fingerprint, "teacher": "0" * 64}
    assert (manifest.settings["languages"], manifest.settings["weak_languages"]) == (LANGUAGES, ["ja"])
    assert read_student_settings(tmp_path / "again").widths == (32,)


@pytest.mark.parametrize("family", ["xlm-roberta", "distilbert"])
def test_other_families_and_prompts_come_back(family: str, tmp_path: Path) -> None:
    bundle = export(tiny_plain(tmp_path / "student", family=family, dense=True), tmp_path / "bundle", "fp32")
    reopen_bundle(bundle, tmp_path / "again")
    assert cosines(tmp_path / "again", Encoder.load(bundle).encode_document(TEXTS)).min() > 0.999999


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "distilbert"])
def test_a_body_with_any_number_of_positions_comes_back(family: str, tmp_path: Path) -> None:
    student = tiny_plain(tmp_path / "student", family=family)
    config = json.loads((student / "config.json").read_text(encoding="utf-8"))
    (student / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 53}), encoding="utf-8")
    tensors = load_file(student / "model.safetensors")
    name = next(name for name in tensors if name.endswith("position_embeddings.weight"))
    save_file(tensors | {name: tensors[name][:53]}, student / "model.safetensors", metadata={"format": "pt"})
    bundle = export(student, tmp_path / "bundle", "fp32")
    reopen_bundle(bundle, tmp_path / "again")
    assert cosines(tmp_path / "again", Encoder.load(bundle).encode_document(TEXTS)).min() > 0.999999


@pytest.mark.parametrize("make", [tiny_static, tiny_transformer])
def test_what_was_rounded_once_is_not_lost_again(make, tmp_path: Path) -> None:
    first = export(make(tmp_path / "student", table_bits=4), tmp_path / "first", "int8")
    reopen_bundle(first, tmp_path / "again")
    second = export(tmp_path / "again", tmp_path / "second", "int8")
    before, after = (Encoder.load(bundle).encode_document(TEXTS) for bundle in (first, second))
    assert np.sum(before * after, axis=1).min() > 0.999
    if make is tiny_static:
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_classifier_opens_again_with_its_head(tmp_path: Path) -> None:
    student = tiny_classifier(tiny_static(tmp_path / "plain"), tmp_path / "student")
    export_classifier(student, tmp_path / "bundle", settings=ExportSettings(precision="fp32"))
    reopen_bundle(tmp_path / "bundle", tmp_path / "again")
    assert np.array_equal(
        load_file(tmp_path / "again/head.safetensors")["weight"], load_file(student / "head.safetensors")["weight"]
    )
    export_classifier(tmp_path / "again", tmp_path / "second", settings=ExportSettings(precision="fp32"))
    before, after = (Classifier.load(tmp_path / name).probabilities(TEXTS) for name in ("bundle", "second"))
    assert np.array_equal(before, after)


@pytest.mark.parametrize("family", ["t5", "mpnet"])
def test_a_body_that_cannot_be_read_back_is_named(family: str, tmp_path: Path) -> None:
    bundle = export(tiny_plain(tmp_path / "student", family=family), tmp_path / "bundle", "fp32")
    with pytest.raises(FolderError, match=f"a body of the family {family} cannot be read back"):
        reopen_bundle(bundle, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("make", [tiny_static, tiny_transformer])
def test_damage_that_the_manifest_vouches_for_is_an_error_or_other_weights(make, tmp_path: Path) -> None:
    bundle = export(make(tmp_path / "student"), tmp_path / "bundle", "int8")
    model, manifest, rng = bundle / "model.onnx", read_manifest(bundle, kind="bundle"), random.Random(0)
    content, num_refused = model.read_bytes(), 0
    for number in range(60):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[rng.choice([rng.randrange(4000), rng.randrange(len(content))])] ^= 1 << rng.randrange(8)
        model.write_bytes(damaged[: rng.choice([len(content), rng.randrange(len(content))])])
        write_manifest(bundle, kind="bundle", parents=manifest.parents, settings=manifest.settings)
        try:
            reopen_bundle(bundle, tmp_path / f"again{number}")
        except FolderError:
            num_refused += 1
            assert not (tmp_path / f"again{number}").exists()
    assert 20 < num_refused < 60


def test_a_published_classifier_opens_again_by_its_name(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["reopen", "kdserve-langid", "--out", str(tmp_path / "student")])
    assert (run.exit_code, run.stderr.partition(" ")[0]) == (0, "next:")
    settings = verify_folder(tmp_path / "student", kind="student").settings
    assert (settings["name"], settings["table_bits"], len(settings["labels"])) == ("kdserve-langid", 4, 86)


def test_a_name_of_nothing_lists_bundles_of_every_kind(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["reopen", "nonsense", "--out", str(tmp_path / "student")])
    assert str(run.exception).startswith("there is no folder nonsense, nor a published bundle of that name (")
    assert {"kdserve-langid", "kdserve-static"} <= set(str(run.exception).partition("(")[2].rstrip(")").split(", "))
