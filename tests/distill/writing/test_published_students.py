from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from kdserve.cli.distill import published_students
from kdserve.distill.data.sides import open_sides
from kdserve.distill.prepare.translation import prepare_writer
from kdserve.errors import DataError, FolderError
from kdserve.manifest import read_manifest
from kdserve.recipe import load_recipe
from kdserve.runtime.published import published_names

BUNDLES = Path(__file__).parents[2] / "runtime" / "bundles"


@pytest.mark.skipif("kdserve-mini" not in published_names(), reason="kdserve-mini is not in this installation")
def test_a_published_students_is_opened_beside_the_student_until_that_is_made(writing_folder, tmp_path):
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=["student.encoder=kdserve-mini"])
    with published_students(recipe, tmp_path / "gist") as opened:
        folder = Path(opened.student.encoder)
        assert folder.name == "kdserve-mini"
        assert read_manifest(folder, kind="student").settings["name"] == "kdserve-mini"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("kdserve-mini" not in published_names(), reason="kdserve-mini is not in this installation")
def test_a_published_student_goes_on_and_teaches_by_its_name(tiny_recipe, tmp_path):
    named = ["student.start=kdserve-mini", "vocabulary.folder=", "teacher.model=kdserve-mini"]
    recipe = tiny_recipe("transformer", overrides=named)
    with published_students(recipe, tmp_path / "adapted") as opened:
        assert opened.student.start == opened.teacher.model
        assert read_manifest(Path(opened.student.start), kind="student").settings["name"] == "kdserve-mini"
    assert not (tmp_path / "adapted.published").exists()


@pytest.mark.skipif("kdserve-gist" not in published_names("translator"), reason="kdserve-gist is not installed")
def test_a_published_translator_goes_on_by_its_name(writing_folder, tmp_path):
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=["student.start=kdserve-gist", "task=summarise"])
    with published_students(recipe, tmp_path / "brief") as opened:
        manifest = read_manifest(Path(opened.student.start), kind="sequence-student")
        assert (manifest.settings["name"], manifest.settings["table_bits"]) == ("kdserve-gist", 4)
        sides = open_sides(Path(opened.student.start), paddings=(1, 0))
        assert sides.texts(sides.write(["Nobody knows it's 1984."], most=16)) == ["Nobody knows it's 1984."]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("kdserve-gist" not in published_names("translator"), reason="kdserve-gist is not installed")
def test_a_published_translator_gives_its_encoder_table_and_source_tokens(writing_folder, tmp_path):
    named = ["student.encoder=kdserve-gist", "train.table_rate=0.0", "student.encoder_layers=[5]"]
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=named)
    with published_students(recipe, tmp_path / "brief") as opened:
        assert Path(opened.student.encoder).name == "kdserve-gist"
        run = prepare_writer(opened, tmp_path / "work")
        assert run.table_bits == 4
        source = Path(opened.student.encoder) / "source" / "tokenizer.json"
        assert run.sides.source.get_vocab() == Tokenizer.from_file(str(source)).get_vocab()
        tables = [side.get_input_embeddings().weight for side in (run.student.model.encoder, run.student.model.decoder)]
        assert [len(table) for table in tables] == [len(run.sides.source.get_vocab()), 600]


def test_bundles_of_one_name_are_opened_each_for_itself(tiny_recipe, tmp_path):
    for family in ("transformer", "static"):
        shutil.copytree(BUNDLES / family, tmp_path / family / "bundle")
    named = ["student.start=transformer/bundle", "vocabulary.folder=", "teacher.model=static/bundle"]
    recipe = tiny_recipe("transformer", overrides=[*named, f"data_dir={tmp_path}"])
    with published_students(recipe, tmp_path / "adapted") as opened:
        folders = [Path(opened.student.start), Path(opened.teacher.model)]
        assert [folder.name for folder in folders] == ["bundle", "bundle"]
        families = [read_manifest(folder, kind="student").settings["family"] for folder in folders]
        assert families == ["transformer", "static"]
    assert not (tmp_path / "adapted.published").exists()


def test_what_was_opened_goes_with_a_refusal_and_stays_with_the_work(tiny_recipe, tmp_path):
    recipe = tiny_recipe("transformer", overrides=[f"student.start={BUNDLES / 'transformer'}", "vocabulary.folder="])
    for work_is_there in (True, False):
        if work_is_there:
            (tmp_path / "adapted.work").mkdir()
        with pytest.raises(DataError), published_students(recipe, tmp_path / "adapted"):
            raise DataError("the data is at fault")
        assert (tmp_path / "adapted.published").exists() == work_is_there
        shutil.rmtree(tmp_path / "adapted.work", ignore_errors=True)


@pytest.mark.skipif("kdserve-langid" not in published_names("classifier"), reason="kdserve-langid is not installed")
def test_a_bundle_of_a_kind_that_does_not_go_there_is_refused_by_its_key(writing_folder, tmp_path):
    shutil.copytree(BUNDLES / "static", tmp_path / "static")
    wrong = {
        "student.encoder=kdserve-langid": "encoder is kdserve-langid, a classifier; name one that embeds or one that",
        f"student.start={tmp_path / 'static'}": "start is .*static, one that embeds; name one that writes",
    }
    for named, message in wrong.items():
        recipe = load_recipe(writing_folder / "recipe.toml", overrides=[named])
        with pytest.raises(FolderError, match=message), published_students(recipe, tmp_path / "out"):
            pass


def test_a_static_student_has_no_encoder_for_a_decoder(writing_folder, tmp_path):
    shutil.copytree(BUNDLES / "static", tmp_path / "static")
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=[f"student.encoder={tmp_path / 'static'}"])
    with (
        published_students(recipe, tmp_path / "out") as opened,
        pytest.raises(FolderError, match=r"static has no encoder, as static students have none; .* name such"),
    ):
        prepare_writer(opened, tmp_path / "work")


def test_a_folder_is_left_where_it_is(writing_folder, embedder, tmp_path):
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=[f"student.encoder={embedder}"])
    with published_students(recipe, tmp_path / "gist") as opened:
        assert opened == recipe
    assert embedder.is_dir()
