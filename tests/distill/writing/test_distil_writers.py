"""From tiny teachers to students that transformers opens, over every family and way to begin."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from typer.testing import CliRunner

from kdserve.cli import app
from kdserve.distill import distill
from kdserve.distill.prepare.translation import prepare_writer
from kdserve.distill.teachers.encoder_decoder import open_writer
from kdserve.distill.teachers.writer import output_key
from kdserve.errors import FolderError, RecipeError
from kdserve.manifest import verify_folder
from kdserve.model_settings import SequenceStudentSettings

from .conftest import BODY

NAMES = {
    "m2m100": ({"de": "de", "fr": "fr", "ja": "ja"}, "en"),
    "mbart": ({"de": "de_DE", "fr": "fr_XX", "ja": "ja_XX"}, "en_XX"),
    "nllb": ({"de": "deu_Latn", "fr": "fra_Latn", "ja": "jpn_Jpan"}, "eng_Latn"),
}
"""What models that know languages by tokens call them."""


@pytest.mark.parametrize("family", ["t5", "bart", "marian", *NAMES])
def test_two_layers_of_a_teacher_become_a_student_that_transformers_opens(family, teachers, writing_recipe, tmp_path):
    codes, target = NAMES.get(family, ({}, ""))
    named = ", ".join(f'{language} = "{code}"' for language, code in codes.items())
    recipe = writing_recipe(
        f"teacher.model={teachers[family]}",
        f"teacher.source_codes={{ {named} }}",
        f"teacher.target_code={target}",
        "teacher.num_beams=2",
        "teacher.candidates=2",
        "student.encoder_layers=[0, 2]",
        "student.decoder_layers=[1]",
        "objective.alpha=0.5",
        "objective.map=[[1, 2]]",
        "objective.hidden=1.0",
        "objective.attention=0.5",
        "train.steps=3",
    )
    distill(recipe, tmp_path / "student")
    settings = SequenceStudentSettings.from_manifest(
        verify_folder(tmp_path / "student", kind="sequence-student"), tmp_path / "student"
    )
    assert settings.targets == ("en",)
    assert settings.languages == ("de", "fr", "ja")
    written = {"m2m100": "__{}__"}.get(family, "{}")
    assert settings.source_tokens == {language: written.format(code) for language, code in codes.items()}
    assert settings.target_tokens == ({"en": written.format(target)} if target else {})
    student, teacher = (AutoModelForSeq2SeqLM.from_pretrained(f) for f in (tmp_path / "student", teachers[family]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*sacremoses")
        tokenizers = [AutoTokenizer.from_pretrained(f) for f in (tmp_path / "student", teachers[family])]
    text = "Das ist ein kleines Haus."
    assert tokenizers[0](text)["input_ids"] == tokenizers[1](text)["input_ids"]
    ids = torch.tensor([tokenizers[0](text)["input_ids"]])
    assert student.generate(ids, max_new_tokens=5).shape[0] == 1
    assert sum(w.numel() for w in student.parameters()) < sum(w.numel() for w in teacher.parameters())


def test_a_body_of_its_own_size_learns_from_the_references_alone(writing_recipe, tmp_path):
    outcome = distill(writing_recipe(BODY), tmp_path / "student")
    assert set(outcome.accuracy.by_language) == {"de", "fr", "ja"}
    assert outcome.accuracy.loss is not None
    model = open_writer(tmp_path / "student")
    assert model.config.encoder.num_hidden_layers == 2
    assert model.config.decoder.hidden_size == 32
    table = model.decoder.get_input_embeddings().weight
    assert table.data_ptr() == model.decoder.get_output_embeddings().weight.data_ptr()


def test_the_command_says_chrf_as_sacrebleu_does(writing_folder, tmp_path):
    command = ["distill", str(writing_folder / "recipe.toml"), "--out", str(tmp_path / "student"), "--json"]
    command += ["--set", BODY]
    ran = CliRunner().invoke(app, command)
    chrf = json.loads(ran.stdout)["accuracy"]["languages"]
    worst = min(chrf, key=chrf.get)
    said = f"held-out chrF {100 * sum(chrf.values()) / len(chrf):.1f}, lowest {100 * chrf[worst]:.1f} ({worst})"
    assert said in " ".join(ran.stderr.split())


def test_a_student_without_teacher_teaches_one_of_its_layers_and_one_of_another_vocabulary(
    body_student, writing_recipe, tmp_path
):
    taught = f"teacher.model={body_student}"
    distill(writing_recipe(taught, "student.decoder_layers=[1]", "objective.alpha=1.0"), tmp_path / "shallow")
    assert open_writer(tmp_path / "shallow").config.decoder.num_hidden_layers == 1
    small = "student.body={width=16,encoder_layers=1,decoder_layers=1,heads=2,feed_forward=24}"
    distill(writing_recipe(taught, small), tmp_path / "small")
    assert open_writer(tmp_path / "small").config.encoder.hidden_size == 16


def test_a_stopped_run_goes_on_to_the_same_weights(writing_recipe, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    recipe = writing_recipe(BODY)
    distill(recipe, whole)

    class Stop(Exception):
        pass

    def stop(what: str, *_: int) -> None:
        if what == "training":
            raise Stop

    with pytest.raises(Stop):  # behind the last step, before the folder is written
        distill(recipe, halves, progress=stop)
    last = halves.with_name("halves.work") / "train" / "last.safetensors"
    assert last.is_file()
    distill(recipe, halves)
    assert (whole / "model.safetensors").read_bytes() == (halves / "model.safetensors").read_bytes()


def test_what_a_teacher_wrote_is_kept_for_other_runs_and_a_cut_line_is_written_anew(teachers, writing_recipe, tmp_path):
    recipe = writing_recipe(
        f"teacher.model={teachers['t5']}", "train.steps=2", "teacher.num_beams=2", "teacher.candidates=2"
    )
    distill(recipe, tmp_path / "one", cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*/outputs.jsonl")
    content = path.read_bytes()
    lines = [json.loads(line) for line in content.splitlines()]
    assert all(len(outputs) == 2 for _, outputs in lines)
    path.write_bytes(content[: content.index(b"\n") + 30])
    distill(recipe, tmp_path / "two", cache=tmp_path / "cache")
    assert dict(json.loads(line) for line in path.read_bytes().splitlines()).keys() == dict(lines).keys()


def test_an_embedding_student_gets_a_decoder_and_keeps_its_encoder_and_table(writing_recipe, embedder, tmp_path):
    recipe = writing_recipe(
        f"student.encoder={embedder}",
        "student.encoder_layers=[1]",
        "student.num_decoder_layers=2",
        "train.table_rate=0.0",
        "train.encoder_rate=0.0",
    )
    distill(recipe, tmp_path / "student")
    model, stored = open_writer(tmp_path / "student"), load_file(embedder / "model.safetensors")
    assert torch.equal(
        model.encoder.embeddings.word_embeddings.weight, stored["embeddings.word_embeddings.weight"].float()
    )
    assert torch.equal(
        model.encoder.encoder.layer[0].intermediate.dense.weight,
        stored["encoder.layer.1.intermediate.dense.weight"].float(),
    )
    manifest = verify_folder(tmp_path / "student", kind="sequence-student")
    assert manifest.settings["recipe"]["student"]["encoder"] == embedder.name


def test_what_does_not_fit_is_refused_by_name(teachers, writing_recipe, embedder, tmp_path):
    taught = f"teacher.model={teachers['t5']}"
    refusals = {
        (taught, "student.decoder_layers=[7]"): "student.decoder_layers names layer 7",
        (taught, f"student.encoder={embedder}", "objective.alpha=0.5"): "objective.alpha compares tokens",
        (taught, f"student.encoder={embedder}", "objective.map=[[0, 0]]", "objective.hidden=1.0"): "objective.hidden",
        (f"student.encoder={embedder}", "student.max_tokens=4000"): "student.max_tokens is 4000",
        (f"teacher.model={teachers['marian']}", "teacher.target_code=xx"): "has no language 'xx'",
    }
    for number, (overrides, message) in enumerate(refusals.items()):
        with pytest.raises(RecipeError, match=message):
            distill(writing_recipe(*overrides), tmp_path / str(number))
    with pytest.raises(FolderError, match="has an encoder of type t5; a decoder goes over BERT's"):
        distill(writing_recipe(f"student.encoder={teachers['t5']}"), tmp_path / "no-bert")
    with pytest.raises(FolderError, match=r"pin teacher\.revision to a commit"):
        distill(writing_recipe("teacher.model=nobody/nothing"), tmp_path / "hub")
    with pytest.raises(FolderError, match=r"check student\.start"):
        distill(writing_recipe("student.start=nowhere"), tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_student_goes_on_from_where_it_was_saved(body_student, writing_recipe, tmp_path):
    distill(writing_recipe(f"student.start={body_student}", "train.steps=0"), tmp_path / "second")
    names = ("model.safetensors", "source/tokenizer.json", "target/tokenizer.json")
    assert all((body_student / n).read_bytes() == (tmp_path / "second" / n).read_bytes() for n in names)


def test_soft_labels_are_the_teachers_likeliest_tokens_and_go_on_where_they_were_cut(
    teachers, writing_recipe, tmp_path
):
    recipe = writing_recipe(
        f"teacher.model={teachers['bart']}",
        "objective.teacher_share=0.0",
        "objective.alpha=1.0",
        "objective.top_k=3",
        "teacher.batch_size=7",
    )
    run = prepare_writer(recipe, tmp_path)
    files = [tmp_path / "soft" / name for name in ("tokens.i32", "scores.f16")]
    whole = [path.read_bytes() for path in files]
    pair = run.data.trained[5:6]
    batch, teacher = run.data.batch(pair), open_writer(teachers["bart"]).eval()
    with torch.inference_mode():
        inputs = teacher.prepare_decoder_input_ids_from_labels(labels=batch.written_BL)
        logits = teacher(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, decoder_input_ids=inputs).logits
    scores = logits.log_softmax(dim=-1)
    best, kept = scores.topk(3, dim=-1).values, scores.gather(-1, batch.top_BLK)
    assert torch.allclose(kept, best, atol=1e-4)
    assert torch.allclose(batch.score_BLK, best, atol=5e-3)
    files[0].write_bytes(whole[0][:1001])
    files[1].write_bytes(whole[1][:703])
    prepare_writer(recipe, tmp_path)
    again = [path.read_bytes() for path in files]
    assert again[0] == whole[0]
    assert len(again[1]) == len(whole[1])


def test_of_a_teachers_outputs_the_nearest_to_the_reference_is_learned_and_circles_never(
    teachers, writing_recipe, tmp_path
):
    recipe = writing_recipe(f"teacher.model={teachers['t5']}", "teacher.num_beams=2", "teacher.candidates=2")
    run = prepare_writer(recipe, tmp_path / "work", cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*/outputs.jsonl")
    corpus, (first, second, third) = run.data.corpus, run.data.trained[:3].tolist()
    texts = {
        first: ["something else entirely", corpus.sources[corpus.source_of[first]] + " indeed"],
        second: ["the end of the end of the end of the end of the end of the end", ""],
        third: ["a house", "a house"],
    }
    wrote = [json.dumps([output_key(corpus, pair), outputs]) for pair, outputs in texts.items()]
    path.write_text(path.read_text(encoding="utf-8") + "\n".join(wrote) + "\n", encoding="utf-8")
    shutil.rmtree(tmp_path / "work" / "written")
    data = prepare_writer(recipe, tmp_path / "work", cache=tmp_path / "cache").data
    learned = [run.sides.texts([data.batch(np.array([pair])).written_BL[0].tolist()])[0] for pair in texts]
    assert learned[0].startswith(corpus.sources[corpus.source_of[first]][:8])
    assert learned[1][:8] == corpus.sources[corpus.source_of[second]][:8]
    assert learned[2] == "a house"


def test_a_new_decoder_looks_at_what_tells_an_encoders_states_apart(writing_recipe, embedder, tmp_path):
    run = prepare_writer(writing_recipe(f"student.encoder={embedder}"), tmp_path)
    model, batch = run.student.model.eval(), run.data.batch(run.data.trained[:64])
    with torch.inference_mode():
        states = model.encoder(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).last_hidden_state
        for layer in model.decoder.bert.encoder.layer:
            for part in (layer.crossattention.self.key, layer.crossattention.self.value):
                seen = part(states[batch.mask_BT.bool()])
                assert seen.mean(dim=0).abs().max() < 0.5
                assert 0.7 < seen.std(dim=0).mean() < 1.4
