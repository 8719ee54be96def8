"""Distilled, exported, and read by the runtime: the texts that transformers writes with the same tokenizers."""

from __future__ import annotations

import pytest
import torch

from kdserve.distill import distill
from kdserve.distill.data.sides import open_sides
from kdserve.distill.teachers.encoder_decoder import open_writer
from kdserve.distill.teachers.writer import paddings_of
from kdserve.export import GatePairs, WritingFloors, export_translator
from kdserve.model_settings import SequenceSettings
from kdserve.runtime.sequence import Translator

from .conftest import BODY

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


@pytest.mark.parametrize("family", ["t5", "bart", "marian", "body", "encoder"])
def test_a_distilled_student_goes_on_to_a_bundle_that_writes_the_same(
    family, teachers, embedder, writing_recipe, tmp_path
):
    begin = {"body": [BODY], "encoder": [f"student.encoder={embedder}"]}.get(family)
    recipe = writing_recipe(*(begin or [f"teacher.model={teachers[family]}", "student.decoder_layers=[0, 2]"]))
    distill(recipe, tmp_path / "student")
    export_translator(
        tmp_path / "student",
        tmp_path / "bundle",
        precision="fp32",
        plain=NOTHING,
        pairs=GatePairs(sources={"de": TEXTS[:1]}, references={}),
        floors=WritingFloors(max_chrf_loss=100, max_spoilt=1, min_agreement=0),
    )
    translator, model = Translator.load(tmp_path / "bundle", num_threads=1), open_writer(tmp_path / "student").eval()
    sides = open_sides(tmp_path / "student", paddings=paddings_of(model.config))
    for text in TEXTS:
        source = torch.tensor(sides.read([text], language="de", most=24))
        written = model.generate(input_ids=source, num_beams=1, max_new_tokens=16)
        assert translator.translate([text], num_beams=1) == sides.texts(written.tolist())
