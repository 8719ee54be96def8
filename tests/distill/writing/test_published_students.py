from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from kdserve.cli.distill import open_published
from kdserve.distill import distill
from kdserve.distill.data.sides import open_sides
from kdserve.distill.prepare.translation import prepare_writer
from kdserve.errors import FolderError
from kdserve.manifest import read_manifest
from kdserve.recipe import load_recipe
from kdserve.runtime.published import published_names

BUNDLES = Path(__file__).parents[2] / "runtime" / "bundles"


@pytest.mark.skipif("kdserve-mini" not in published_names(), reason="kdserve-mini is not in this installation")
def test_a_published_student_gives_its_encoder_by_its_name(writing_folder, tmp_path):
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=["student.encoder=kdserve-mini"])
    folder = Path(open_published(recipe, tmp_path).student.encoder)
    assert folder.name == "kdserve-mini"
    assert read_manifest(folder, kind="student").settings["name"] == "kdserve-mini"


@pytest.mark.skipif("kdserve-mini" not in published_names(), reason="kdserve-mini is not in this installation")
def test_a_published_student_goes_on_and_teaches_by_its_name(tiny_recipe, tmp_path):
    named = [f"{key}=kdserve-mini" for key in ("student.start", "teacher.model", "guide.student")]
    recipe = tiny_recipe("transformer", overrides=["vocabulary.folder=", *named])
    opened = open_published(recipe, tmp_path)
    assert opened.student.start == opened.teacher.model == opened.guide.student
    assert read_manifest(Path(opened.student.start), kind="student").settings["name"] == "kdserve-mini"


@pytest.fixture(scope="module")
def opened_gist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundles of both tests below are opened, which takes long, once."""
    return tmp_path_factory.mktemp("gist")


@pytest.mark.skipif("kdserve-gist" not in published_names("translator"), reason="kdserve-gist is not installed")
def test_a_published_translator_goes_on_by_its_name(writing_folder, opened_gist):
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=["student.start=kdserve-gist", "task=summarise"])
    start = Path(open_published(recipe, opened_gist).student.start)
    manifest = read_manifest(start, kind="sequence-student")
    assert (manifest.settings["name"], manifest.settings["table_bits"]) == ("kdserve-gist", 4)
    sides = open_sides(start, paddings=(1, 0))
    assert sides.texts(sides.write(["Nobody knows it's 1984."], most=16)) == ["Nobody knows it's 1984."]


@pytest.mark.skipif("kdserve-gist" not in published_names("translator"), reason="kdserve-gist is not installed")
def test_a_published_translator_gives_its_encoder_table_and_source_tokens(writing_folder, opened_gist, tmp_path):
    named = ["student.encoder=kdserve-gist", "train.table_rate=0.0", "student.encoder_layers=[5]"]
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=named)
    opened = open_published(recipe, opened_gist)
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
    opened = open_published(recipe, tmp_path / "opened")
    folders = [Path(opened.student.start), Path(opened.teacher.model)]
    assert [folder.name for folder in folders] == ["bundle", "bundle"]
    families = [read_manifest(folder, kind="student").settings["family"] for folder in folders]
    assert families == ["transformer", "static"]


def test_where_what_was_opened_lay_says_nothing_of_the_student(tiny_recipe, tmp_path):
    named = [f"student.start={BUNDLES / 'static'}", "vocabulary.folder=", f"teacher.model={BUNDLES / 'transformer'}"]
    recipe = tiny_recipe("static", steps=2, overrides=named)
    made = []
    for out in (tmp_path / "here" / "one", tmp_path / "there" / "two"):
        distill(recipe, out, open_bundles=open_published)
        made.append((out / "kdserve.json").read_bytes())
        assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert made[0] == made[1]
    settings = read_manifest(tmp_path / "here" / "one", kind="student").settings
    assert settings["recipe"]["student"]["start"] == "static"
    assert str(tmp_path) not in made[0].decode()
    assert str(tmp_path) not in (tmp_path / "here" / "one" / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif("kdserve-langid" not in published_names("classifier"), reason="kdserve-langid is not installed")
def test_a_bundle_of_a_kind_that_does_not_go_there_is_refused_by_its_key(writing_folder, tmp_path):
    shutil.copytree(BUNDLES / "static", tmp_path / "static")
    wrong = {
        "student.encoder=kdserve-langid": "encoder is kdserve-langid, a classifier; name one that embeds or one that",
        f"student.start={tmp_path / 'static'}": "start is .*static, one that embeds; name one that writes",
    }
    for named, message in wrong.items():
        recipe = load_recipe(writing_folder / "recipe.toml", overrides=[named])
        with pytest.raises(FolderError, match=message):
            open_published(recipe, tmp_path / "opened")


def test_a_static_student_has_no_encoder_for_a_decoder(writing_folder, tmp_path):
    shutil.copytree(BUNDLES / "static", tmp_path / "static")
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=[f"student.encoder={tmp_path / 'static'}"])
    opened = open_published(recipe, tmp_path / "opened")
    with pytest.raises(FolderError, match=r"static has no encoder, as static students have none; .* name such"):
        prepare_writer(opened, tmp_path / "work")


def test_a_folder_is_left_where_it_is(writing_folder, embedder, tmp_path):
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=[f"student.encoder={embedder}"])
    assert open_published(recipe, tmp_path / "opened") == recipe
    assert not (tmp_path / "opened").exists()
