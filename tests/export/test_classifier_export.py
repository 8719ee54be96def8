from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny_classifiers import tiny_classifier
from tiny_students import LANGUAGES
from typer.testing import CliRunner

from kdserve import Classifier, Encoder
from kdserve.cli import app
from kdserve.errors import FidelityError, FolderError
from kdserve.export import (
    ExportSettings,
    GateTexts,
    export_bundle,
    export_classifier,
    is_classifier,
    trim_vocabulary,
)
from kdserve.export.read.student import read_student
from kdserve.manifest import verify_folder, write_manifest
from kdserve.samples import parallel

TEXTS = [text for code in LANGUAGES for text in parallel()[code][100:160]] + ["", "word " * 200]


@pytest.fixture(scope="module", params=["static", "transformer"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = request.getfixturevalue(request.param)
    return tiny_classifier(folder, tmp_path_factory.mktemp(f"classifier-{request.param}") / "student")


@pytest.fixture(scope="module")
def bundle(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "classifier"
    export_classifier(student, out, settings=ExportSettings(precision="fp32"))
    return out


def test_probabilities_equal_sentence_transformers_and_a_softmax(student: Path, bundle: Path) -> None:
    model, head = SentenceTransformer(str(student), device="cpu"), load_file(student / "head.safetensors")
    texts = TEXTS[:-2]
    logits = model.encode(texts) @ head["weight"].T + head["bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = Classifier.load(bundle).probabilities(texts)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    named = [prediction.label for prediction in Classifier.load(bundle).classify(texts)]
    assert named == [LANGUAGES[place] for place in expected.argmax(axis=1)]


def test_one_text_has_one_answer(bundle: Path) -> None:
    classifier = Classifier.load(bundle, num_threads=2)
    together = classifier.probabilities(TEXTS)
    assert np.array_equal(together, np.concatenate([classifier.probabilities([text]) for text in TEXTS]))
    assert np.array_equal(together[::-1], classifier.probabilities(TEXTS[::-1]))
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    assert classifier.probabilities([]).shape == (0, 4)
    assert classifier.classify([]) == []
    with pytest.raises(TypeError, match="put it into a list"):
        classifier.classify("one text")


def test_the_manifest_names_labels_parents_and_what_was_lost(student: Path, bundle: Path) -> None:
    manifest = verify_folder(bundle, kind="classifier")
    assert manifest.settings["labels"] == LANGUAGES
    assert manifest.parents["student"] == verify_folder(student, kind="student").fingerprint
    assert all(row["same_label"] >= 0.98 for row in manifest.settings["fidelity"]["languages"])
    classifier = Classifier.load(bundle)
    assert (classifier.labels, classifier.max_tokens) == (tuple(LANGUAGES), 64)
    assert classifier.fingerprint == manifest.fingerprint
    assert "Classifier.load(" in (bundle / "README.md").read_text(encoding="utf-8")


def test_auto_keeps_the_fastest_whose_labels_agree(student: Path, tmp_path: Path) -> None:
    done = export_classifier(student, tmp_path / "auto", settings=ExportSettings(precision="auto"), min_agreement=0.9)
    tried = ["int8", "fp32"] if read_student(student).family == "static" else ["int8", "w8", "fp32"]
    assert [attempt.precision for attempt in done.attempts] == tried
    passed = [attempt for attempt in done.attempts if attempt.refusal is None]
    assert done.kept.texts_per_second == max(attempt.texts_per_second for attempt in passed)
    assert Classifier.load(tmp_path / "auto").settings.precision == done.kept.precision
    assert [path.name for path in (tmp_path / "auto").glob("*.onnx")] == ["model.onnx"]
    with pytest.raises(
        FidelityError, match=r"floor allows: fp32: labels agree with the student's too rarely \(.* < 1\.5\)"
    ):
        export_classifier(student, tmp_path / "b", settings=ExportSettings(precision="fp32"), min_agreement=1.5)
    assert not (tmp_path / "b").exists()


def test_folders_of_the_other_kind_are_refused(static: Path, student: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="is a classifier, not a bundle"):
        Encoder.load(bundle)
    export_bundle(static, tmp_path / "encoder", settings=ExportSettings(precision="fp32"))
    with pytest.raises(FolderError, match="is a bundle, not a classifier"):
        Classifier.load(tmp_path / "encoder")
    with pytest.raises(FolderError, match="nor a published classifier of that name"):
        Classifier.load("none")
    assert is_classifier(student)
    assert not is_classifier(static)


def test_a_damaged_head_and_settings_that_do_not_fit_are_refused(student: Path, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(student, tmp_path / "student")
    settings = verify_folder(tmp_path / "student", kind="student").settings
    write_manifest(tmp_path / "student", kind="student", settings={**settings, "labels": ["a", "b", "c"]})
    with pytest.raises(FolderError, match=r"has 4 × \d+ weights and 4 biases for 3 labels"):
        export_classifier(tmp_path / "student", tmp_path / "a", settings=ExportSettings())
    write_manifest(tmp_path / "student", kind="student", settings=dict(settings))
    head = load_file(tmp_path / "student" / "head.safetensors")
    save_file({**head, "bias": head["bias"][:1]}, tmp_path / "student" / "head.safetensors")
    write_manifest(tmp_path / "student", kind="student", settings=dict(settings))
    with pytest.raises(FolderError, match=r"has 4 × \d+ weights and 1 biases for 4 labels"):
        export_classifier(tmp_path / "student", tmp_path / "a", settings=ExportSettings())
    save_file({**head, "weight": head["weight"] * np.float32("nan")}, tmp_path / "student" / "head.safetensors")
    write_manifest(tmp_path / "student", kind="student", settings=dict(settings))
    with pytest.raises(FolderError, match=r"head\.safetensors holds NaN or infinity in weight"):
        export_classifier(tmp_path / "student", tmp_path / "a", settings=ExportSettings())
    (tmp_path / "student" / "head.safetensors").write_bytes(b"no")
    write_manifest(tmp_path / "student", kind="student", settings=dict(settings))
    with pytest.raises(FolderError, match=r"head\.safetensors cannot be read"):
        export_classifier(tmp_path / "student", tmp_path / "a", settings=ExportSettings())
    shutil.copytree(bundle, tmp_path / "bundle")
    settings = dict(verify_folder(bundle, kind="classifier").settings)
    write_manifest(tmp_path / "bundle", kind="classifier", settings={**settings, "labels": ["one"]})
    with pytest.raises(FolderError, match="labels has 1; it must hold two or more"):
        Classifier.load(tmp_path / "bundle")
    write_manifest(tmp_path / "bundle", kind="classifier", settings={**settings, "labels": ["a", "b", "c"]})
    with pytest.raises(FolderError, match="gives vectors of 1 × 4, its manifest says 3"):
        Classifier.load(tmp_path / "bundle").probabilities(["x"])


def test_the_commands_export_and_classify(student: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["export", str(student), "--out", str(tmp_path / "c"), "--json"])
    assert json.loads(run.stdout)["precision"] == "int8"
    (tmp_path / "texts.txt").write_text("Das ist ein Haus.\n\nэто дом\n", encoding="utf-8")
    run = CliRunner().invoke(
        app, ["classify", str(tmp_path / "c"), str(tmp_path / "texts.txt"), "--json", "--top", "2"]
    )
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["Das ist ein Haus.", "это дом"]
    assert [max(row["labels"], key=row["labels"].get) for row in rows] == [row["label"] for row in rows]
    assert [len(row["labels"]) for row in rows] == [2, 2]
    run = CliRunner().invoke(app, ["classify", str(tmp_path / "c")], input="これは家です。\n")
    label, probability, text = run.stdout.rstrip("\n").split("\t")
    assert (label in LANGUAGES, 0 < float(probability) <= 1, text) == (True, True, "これは家です。")
    run = CliRunner().invoke(app, ["classify", str(tmp_path / "c")], input="\n")
    assert "standard input holds no text" in run.stderr
    run = CliRunner().invoke(app, ["classify", str(tmp_path / "c"), str(tmp_path / "none.txt")])
    assert "none.txt; check the path" in str(run.exception)


def test_a_trimmed_classifier_stays_one(student: Path, tmp_path: Path) -> None:
    texts = GateTexts(by_language={code: parallel()[code][:200] for code in ("de", "en")}, parallel=False)
    trim_vocabulary(student, tmp_path / "trimmed", texts=texts)
    export_classifier(tmp_path / "trimmed", tmp_path / "bundle", settings=ExportSettings(precision="fp32"))
    named = Classifier.load(tmp_path / "bundle").classify(parallel()["de"][:50])
    assert sum(prediction.label == "de" for prediction in named) > 30


PROGRAM = """
import sys
from kdserve import Classifier
print(Classifier.load(sys.argv[1]).classify(["a house"])[0].label in Classifier.load(sys.argv[1]).labels)
print(sorted({"torch", "transformers", "onnx", "typer", "sentence_transformers", "scipy"} & set(sys.modules)))
"""


def test_a_classifier_needs_none_of_the_training_stack(bundle: Path) -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(bundle)], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n[]\n"
