"""Distilled, exported, and read by the runtime: the texts that transformers writes with the same tokenizers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdserve.cli.distill import open_published
from kdserve.distill import distill
from kdserve.distill.data.sides import open_sides
from kdserve.distill.students.writer import ENCODER_TABLE
from kdserve.distill.teachers.encoder_decoder import open_writer
from kdserve.distill.teachers.writer import paddings_of
from kdserve.errors import FolderError
from kdserve.export import GatePairs, WritingFloors, export_translator, reopen_bundle
from kdserve.manifest import verify_folder
from kdserve.model_settings import SequenceSettings
from kdserve.recipe import load_recipe
from kdserve.runtime.sequence import Translator

TEXTS = ["Das ist ein kleines Haus.", "Où est la gare ?", "駅はどこですか。"]
NOTHING = SequenceSettings(
    name="",
    family="sequence",
    task="translate",
    max_tokens=8,
    max_output_tokens=8,
    languages=("de",),
    weak_languages=(),
)


@pytest.fixture(scope="module")
def over_encoder(tmp_path_factory, writing_folder, embedder) -> Path:
    """A student that writes over an embedder's encoder."""
    out = tmp_path_factory.mktemp("over") / "student"
    distill(load_recipe(writing_folder / "recipe.toml", overrides=[f"student.encoder={embedder}"]), out)
    return out


@pytest.mark.parametrize("family", ["t5", "bart", "marian", "body", "encoder"])
def test_a_distilled_student_goes_on_to_a_bundle_that_writes_the_same(
    family, teachers, body_student, over_encoder, writing_recipe, tmp_path
):
    student = {"body": body_student, "encoder": over_encoder}.get(family, tmp_path / "student")
    if family in teachers:
        distill(writing_recipe(f"teacher.model={teachers[family]}", "student.decoder_layers=[0, 2]"), student)
    _export(student, tmp_path / "bundle")
    translator, model = Translator.load(tmp_path / "bundle", num_threads=1), open_writer(student).eval()
    sides = open_sides(student, paddings=paddings_of(model.config))
    rules = translator.settings.generation
    assert (rules.keep_numbers, rules.keep_names, rules.max_run) == (True, 0.5, 3)
    greedily = replace(rules, num_beams=1)
    for text in TEXTS:
        source = torch.tensor(sides.read([text], language="de", most=24))
        written = model.generate(input_ids=source, num_beams=1, max_new_tokens=16)
        found = translator.generate(translator.tokenize([text]), greedily, max_output_tokens=16)
        assert sides.texts(found) == sides.texts(written.tolist())


def test_a_bundle_opens_again_and_goes_on_to_another_task(body_student, writing_recipe, tmp_path):
    _export(body_student, tmp_path / "bundle")
    reopen_bundle(tmp_path / "bundle", tmp_path / "again")
    begun = f"student.start={tmp_path / 'again'}"
    distill(writing_recipe(begun, "train.steps=0"), tmp_path / "same")
    before, after = (load_file(folder / "model.safetensors") for folder in (body_student, tmp_path / "same"))
    assert before.keys() == after.keys()
    own = [name for name in before if not ("position" in name or "token_type" in name)]  # one has the other's row in it
    assert all(torch.equal(before[name], after[name]) for name in own)
    pair = [open_sides(folder, paddings=(0, 0)) for folder in (body_student, tmp_path / "same")]
    assert pair[0].write(TEXTS, most=16) == pair[1].write(TEXTS, most=16)
    distill(writing_recipe(begun, "task=summarise", "train.steps=2"), tmp_path / "brief")
    settings = verify_folder(tmp_path / "brief", kind="sequence-student").settings
    assert (settings["task"], settings["recipe"]["student"]["start"]) == ("summarise", "again")


def test_a_translators_encoder_gets_a_decoder_for_another_task_and_goes_on_to_a_bundle(
    over_encoder, writing_recipe, tmp_path
):
    _export(over_encoder, tmp_path / "bundle")
    fixed = ["task=summarise", "vocabulary.size=400", "train.table_rate=0.0", "train.encoder_rate=0.0"]
    recipe = writing_recipe(f"student.encoder={tmp_path / 'bundle'}", *fixed)
    with pytest.raises(FolderError, match=r"bundle is a bundle.*kdserve reopen for student\.encoder"):
        distill(recipe, tmp_path / "brief")
    distill(recipe, tmp_path / "brief", open_bundles=open_published)
    settings = verify_folder(tmp_path / "brief", kind="sequence-student").settings
    assert (settings["task"], settings["recipe"]["student"]["encoder"]) == ("summarise", "bundle")
    before, after = (load_file(folder / "model.safetensors") for folder in (over_encoder, tmp_path / "brief"))
    own = [name for name in before if name.startswith("encoder.encoder.") or name == ENCODER_TABLE]
    assert all(torch.equal(before[name], after[name]) for name in own)
    assert len(after["decoder.bert.embeddings.word_embeddings.weight"]) == 400
    _export(tmp_path / "brief", tmp_path / "summaries")
    summariser, model = Translator.load(tmp_path / "summaries", num_threads=1), open_writer(tmp_path / "brief").eval()
    pair = [open_sides(folder, paddings=(0, 0)) for folder in (over_encoder, tmp_path / "brief")]
    for text in TEXTS:
        rows = [sides.read([text], language="de", most=24) for sides in pair]
        assert rows[0] == rows[1]
        written = model.generate(input_ids=torch.tensor(rows[1]), num_beams=1, max_new_tokens=16)
        assert summariser.translate([text], num_beams=1) == pair[1].texts(written.tolist())


def _export(student: Path, out: Path) -> None:
    export_translator(
        student,
        out,
        precision="fp32",
        plain=NOTHING,
        pairs=GatePairs(sources={"de": TEXTS[:1]}, references={}),
        floors=WritingFloors(max_chrf_loss=100, max_spoilt=1, min_agreement=0),
    )
