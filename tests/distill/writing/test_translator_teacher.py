"""A translator's bundle teaches by what it writes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from kdserve import Translator
from kdserve.distill import distill
from kdserve.distill.prepare.translation import prepare_writer
from kdserve.distill.teachers.writer import open_writer_teacher
from kdserve.errors import RecipeError
from kdserve.export import WritingFloors, export_translator
from kdserve.export.sequence.gate import GatePairs
from kdserve.model_settings import SequenceSettings
from kdserve.recipe import load_recipe
from kdserve.samples import parallel

from .conftest import BODY

PLAIN = SequenceSettings(
    name="", family="sequence", task="translate", max_tokens=8, max_output_tokens=8, languages=(), weak_languages=()
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, writing_folder):
    folder = tmp_path_factory.mktemp("translator")
    recipe = load_recipe(writing_folder / "recipe.toml", overrides=[BODY, "train.steps=30", "train.decoder_rate=1e-2"])
    distill(recipe, folder / "student")
    pairs = GatePairs(sources={"de": parallel()["de"][:4]}, references={"de": parallel()["en"][:4]})
    floors = WritingFloors(max_chrf_loss=100, max_spoilt=1, min_agreement=0)
    export_translator(folder / "student", folder / "bundle", precision="int8", plain=PLAIN, pairs=pairs, floors=floors)
    return folder / "bundle"


def test_a_bundles_beams_are_learned_by_a_student_of_its_own_vocabulary(bundle, writing_recipe, tmp_path):
    recipe = writing_recipe(f"teacher.model={bundle}", BODY, "teacher.num_beams=3", "teacher.candidates=1")
    run = prepare_writer(recipe, tmp_path / "work", cache=tmp_path / "cache")
    corpus, pairs = run.data.corpus, run.data.trained[:12]
    texts = [corpus.translations[pair] for pair in pairs.tolist()]
    expected = Translator.load(bundle).candidates(texts, num_beams=3)
    (path,) = (tmp_path / "cache").glob("*/outputs.jsonl")
    kept = [outputs for _, outputs in map(json.loads, path.read_text("utf-8").splitlines())]
    assert all(outputs[:1] in kept for outputs in expected)
    learned = run.sides.texts([run.data.batch(np.array([pair])).written_BL[0].tolist() for pair in pairs.tolist()])
    references = [corpus.sources[corpus.source_of[pair]] for pair in pairs.tolist()]
    best = [outputs[0] if outputs else "" for outputs in expected]
    assert set(learned) <= {*best, *references}
    assert run.parents["teacher"] == Translator.load(bundle).fingerprint
    outcome = distill(recipe, tmp_path / "student", cache=tmp_path / "cache")
    assert set(outcome.accuracy.by_language) == {"de", "fr", "ja"}


@pytest.mark.parametrize("place", ["data", "here"])
def test_a_bundle_is_found_below_the_data_and_in_the_working_folder(
    bundle, writing_recipe, tmp_path, monkeypatch, place
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copytree(bundle, tmp_path / ("data/gist" if place == "data" else "gist"))
    recipe = replace(writing_recipe("teacher.model=gist", BODY), data_dir=str(tmp_path / "data"))
    assert open_writer_teacher(recipe).fingerprint == Translator.load(bundle).fingerprint


def test_more_than_outputs_is_not_asked_of_a_bundle(bundle, writing_recipe, tmp_path):
    asked = {
        ("student.decoder_layers=[1]",): "a student of its layers",
        (BODY, "objective.alpha=0.5"): "objective.alpha",
        (BODY, "objective.map=[[0, 0]]", "objective.hidden=1.0"): "objective.map",
        (BODY, 'teacher.prefix="translate: "'): "teacher.prefix",
    }
    for number, (overrides, message) in enumerate(asked.items()):
        with pytest.raises(RecipeError, match=message):
            distill(writing_recipe(f"teacher.model={bundle}", *overrides), tmp_path / str(number))
