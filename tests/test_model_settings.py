from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kdserve.errors import FolderError
from kdserve.manifest import Kind, write_manifest
from kdserve.model_settings import SequenceStudentSettings, read_student_settings, verify_student
from kdserve.runtime.bundle import BundleSettings, Prompts
from kdserve.runtime.classifier import ClassifierSettings

ALIKE: dict[str, Any] = {
    "name": "s",
    "family": "static",
    "max_tokens": 24,
    "languages": ["de", "en"],
    "weak_languages": [],
}
STUDENT = {**ALIKE, "dim": 8, "table_bits": 4}
BUNDLE = {**ALIKE, "dim": 8, "precision": "int8", "prompts": {"query": "q: ", "document": ""}, "widths": [4]}
CLASSIFIER = {**ALIKE, "precision": "w8", "labels": ["a", "b"], "fidelity": {"floor": 0.98}}


def write(folder: Path, settings: Mapping[str, Any], kind: Kind = "student") -> Any:
    folder.mkdir()
    return write_manifest(folder, kind=kind, settings=settings)


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"labels": ["a", "b"]},
        {
            "recipe": {"objective": {"matryoshka": [2, 4]}},
            "accuracy": {"languages": {"de": 0.5}},
            "grown": {"layers": 4},
        },
    ],
)
def test_a_students_settings_are_written_as_they_were_read(tmp_path: Path, training: dict[str, Any]) -> None:
    write(tmp_path / "s", {**STUDENT, **training})
    settings = read_student_settings(tmp_path / "s")
    assert settings.to_json() == {**STUDENT, **training}
    assert settings == verify_student(tmp_path / "s")[1]
    assert settings.widths == ((2, 4) if "recipe" in training else ())


def test_bundles_and_classifiers_settings_are_written_as_they_were_read(tmp_path: Path) -> None:
    bundle = BundleSettings.from_manifest(write(tmp_path / "b", BUNDLE, "bundle"), tmp_path / "b")
    assert bundle.to_json() == {**BUNDLE, "fidelity": {}}
    assert bundle.prompts == Prompts(query="q: ")
    classifier = ClassifierSettings.from_manifest(write(tmp_path / "c", CLASSIFIER, "classifier"), tmp_path / "c")
    assert classifier.to_json() == CLASSIFIER


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", None, "name is None, which is no str"),
        ("family", ["static"], r"family is \['static'\]; choose one of static, transformer"),
        ("max_tokens", "24", "max_tokens is '24', which is no int"),
        ("max_tokens", True, "max_tokens is True, which is no int"),
        ("max_tokens", -1, r"max_tokens is -1; it must lie in \[1, 1048576\]"),
        ("dim", 0, r"dim is 0; it must lie in \[1, 1048576\]"),
        ("dim", 1 << 21, r"dim is 2097152; it must lie in \[1, 1048576\]"),
        ("table_bits", 5, "table_bits is 5; choose one of 0, 4, 8"),
        ("table_bits", 4.0, "table_bits is 4.0; choose one of 0, 4, 8"),
        ("table_bits", False, "table_bits is False; choose one of 0, 4, 8"),
        ("languages", "de", "languages must be a list"),
        ("weak_languages", [1], r"weak_languages\[0\] is 1, which is no str"),
        ("labels", {"a": 1}, "labels must be a list"),
        ("recipe", [], "recipe must be a table"),
        ("recipe", {"objective": []}, "recipe.objective.matryoshka must be a list of widths"),
        ("recipe", {"objective": {"matryoshka": 4}}, "recipe.objective.matryoshka must be a list of widths"),
        ("recipe", {"objective": {"matryoshka": [0]}}, "widths is 0"),
        ("color", "red", "unknown key color"),
    ],
)
def test_a_setting_that_does_not_fit_is_named_with_its_file(tmp_path: Path, key: str, value: Any, said: str) -> None:
    write(tmp_path / "s", {**STUDENT, key: value})
    with pytest.raises(FolderError, match=rf"the settings in .*s/kdserve\.json: {said}.*; distil it again"):
        verify_student(tmp_path / "s")


@pytest.mark.parametrize("key", STUDENT)
def test_a_missing_setting_is_named(tmp_path: Path, key: str) -> None:
    write(tmp_path / "s", {name: value for name, value in STUDENT.items() if name != key})
    with pytest.raises(FolderError, match=f"the key {key} is missing"):
        read_student_settings(tmp_path / "s")


def test_a_student_that_writes_is_distilled_again(tmp_path: Path) -> None:
    writes = {**ALIKE, "family": "sequence", "task": "translate", "max_output_tokens": 8, "target_tokens": {"de": 1}}
    manifest = write(tmp_path / "s", writes, "sequence-student")
    with pytest.raises(FolderError, match=r"target_tokens\.de is 1, which is no str; distil it again"):
        SequenceStudentSettings.from_manifest(manifest, tmp_path / "s")
    manifest = write(tmp_path / "t", {**writes, "target_tokens": {}, "max_output_tokens": 0}, "sequence-student")
    with pytest.raises(FolderError, match=r"max_output_tokens is 0; it must lie in \[1, 1048576\]; distil it again"):
        SequenceStudentSettings.from_manifest(manifest, tmp_path / "t")


def test_settings_inside_settings_are_read_as_strictly(tmp_path: Path) -> None:
    manifest = write(tmp_path / "b", {**BUNDLE, "prompts": {"query": 1}}, "bundle")
    with pytest.raises(FolderError, match=r"prompts\.query is 1, which is no str; export again"):
        BundleSettings.from_manifest(manifest, tmp_path / "b")
    manifest = write(tmp_path / "c", {**CLASSIFIER, "labels": ["one"]}, "classifier")
    with pytest.raises(FolderError, match="labels has 1; it must hold two or more; export again"):
        ClassifierSettings.from_manifest(manifest, tmp_path / "c")
