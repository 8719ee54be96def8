from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from kdserve import Encoder, samples
from kdserve.distill import distill, load_teacher
from kdserve.distill.start.ingredients import gather
from kdserve.distill.start.student import start_student
from kdserve.distill.students.bodies import draw_body, take_body
from kdserve.distill.students.folder import open_student
from kdserve.errors import RecipeError
from kdserve.export import ExportSettings, export_bundle
from kdserve.manifest import verify_folder
from kdserve.recipe import BodyRecipe, StudentRecipe

OWN = ["student.body.width=64", "student.body.heads=4", "student.body.layers=2", "student.body.feed_forward=96"]
TEXTS = ["Der Kaffee ist kalt.", "駅はどこですか。", "Where is the station?", "word " * 60]


@pytest.fixture(scope="session")
def t5_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 encoder of three layers drawn at random, mean-pooled, with a dense layer, as sentence-t5 has them."""
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    body = tmp_path_factory.mktemp("t5-body")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(samples.parallel()["en"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(body)
    torch.manual_seed(0)
    sizes = {"d_model": 48, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 3}
    T5EncoderModel(T5Config(vocab_size=500, feed_forward_proj="gated-gelu", **sizes)).save_pretrained(body)
    dense = Dense(48, 32, bias=False, activation_function=torch.nn.Identity())
    modules = [Transformer(str(body)), Pooling(48, pooling_mode="mean"), dense, Normalize()]
    folder = tmp_path_factory.mktemp("t5") / "teacher"
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


def test_a_body_of_its_own_is_trained_saved_and_exported(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    recipe = tiny_recipe("transformer", bits=8, steps=8, overrides=OWN)
    distill(recipe, tmp_path / "student", cache=teacher_cache)
    assert verify_folder(tmp_path / "student", kind="student").settings["dim"] == 384
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    assert [config[key] for key in sizes] == [64, 2, 4, 96, 24]
    modules = [module["type"].rsplit(".")[-1] for module in json.loads((tmp_path / "student/modules.json").read_text())]
    assert modules == ["Transformer", "Pooling", "Dense", "Normalize"]
    vectors = SentenceTransformer(str(tmp_path / "student"), device="cpu").encode(TEXTS)
    assert vectors.shape == (4, 384)
    export_bundle(tmp_path / "student", tmp_path / "bundle", settings=ExportSettings(precision="fp32"))
    np.testing.assert_allclose(Encoder.load(tmp_path / "bundle").encode_document(TEXTS), vectors, atol=2e-5)


def test_a_body_of_its_own_starts_near_the_static_student(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    made = gather(tiny_recipe("transformer", overrides=OWN), tmp_path / "work", cache=teacher_cache)
    numbers = np.flatnonzero(made.corpus.held_out[made.corpus.source_of])
    vectors = {}
    for width in (0, 384, 256):
        overrides = ["align.damping=0.5", *OWN, f"student.body.width={width}"] if width else ["align.damping=0.5"]
        recipe = tiny_recipe("transformer" if width else "static", overrides=overrides)
        student = start_student(recipe, made, tmp_path / "work").eval()
        ids, mask = made.data.tokens.padded(numbers, wrap=student.wraps)
        with torch.no_grad():
            vectors[width] = student(ids, mask).vectors_BD
    cosines = [float((vectors[0] * vectors[width]).sum(dim=-1).mean()) for width in (384, 256)]
    assert min(cosines) > 0.7, cosines


def test_a_drawn_body_depends_on_the_seed_alone():
    size, settings = BodyRecipe(width=32, layers=1, heads=2, feed_forward=48), StudentRecipe(max_tokens=8)
    first, again, other = (draw_body(size, settings, seed=seed).state_dict() for seed in (1, 1, 2))
    name = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert first[name].shape == (32, 32)


def test_bodies_that_cannot_be_are_refused(tiny_recipe):
    with pytest.raises(RecipeError, match=r"student\.body\.heads is \d+; it must divide the width 64"):
        tiny_recipe("transformer", overrides=[*OWN, "student.body.heads=5"])
    with pytest.raises(RecipeError, match=r"student\.start has a body already"):
        tiny_recipe("transformer", overrides=[*OWN, "student.start=folder"])


def test_a_t5_encoder_teaches_a_student_that_takes_its_layers(tmp_path: Path, tiny_recipe, t5_teacher: Path):
    overrides = [f"teacher.model={t5_teacher}", "student.layers=[1, 2]", "layers.map=[[0, 1], [1, 2]]"]
    overrides += ["layers.hidden=0.1", "layers.relations=0.1", "layers.relation_heads=4"]
    recipe = tiny_recipe("transformer", bits=8, steps=6, overrides=overrides)
    distill(recipe, tmp_path / "student", cache=tmp_path / "cache")
    manifest = verify_folder(tmp_path / "student", kind="student")
    assert manifest.settings["dim"] == 32
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert (config["model_type"], config["num_layers"], config["vocab_size"]) == ("t5", 2, 700)
    tensors = load_file(tmp_path / "student" / "model.safetensors")
    assert "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight" in tensors
    model = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    made = gather(recipe, tmp_path / "work", cache=tmp_path / "cache")
    vectors = model.encode(TEXTS)
    assert vectors.shape == (4, 32)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, vectors, atol=1e-6)
    assert manifest.parents["teacher"] == made.teacher.fingerprint
    again = open_student(tmp_path / "student", recipe.student).eval()
    ids = torch.tensor([made.tokenizer.encode(TEXTS[0]).ids])
    with torch.no_grad():
        reopened = again(ids, torch.ones_like(ids)).vectors_BD.numpy()
    np.testing.assert_allclose(reopened[0], vectors[0], atol=1e-6)
    export_bundle(tmp_path / "student", tmp_path / "bundle", settings=ExportSettings(precision="fp32"))
    np.testing.assert_allclose(Encoder.load(tmp_path / "bundle").encode_document(TEXTS), vectors, atol=2e-5)


def test_layers_of_a_t5_teacher_compute_what_they_computed_there(t5_teacher: Path):
    teacher = load_teacher(str(t5_teacher), device="cpu")
    source = teacher.model[0].auto_model.eval()
    body = take_body(teacher, StudentRecipe(layers=(0, 1, 2))).eval()
    rows, mask = torch.randn(2, 7, 48), torch.ones(2, 7)
    mask[1, 4:] = 0
    with torch.no_grad():
        theirs = source(inputs_embeds=rows, attention_mask=mask).last_hidden_state
        ours = body(inputs_embeds=rows, attention_mask=mask).last_hidden_state
        upper = take_body(teacher, StudentRecipe(layers=(1, 2))).eval()(inputs_embeds=rows, attention_mask=mask)
        whole = source(inputs_embeds=rows, attention_mask=mask, output_hidden_states=True)
        from_second = take_body(teacher, StudentRecipe(layers=(1, 2))).eval()
        again = from_second(inputs_embeds=whole.hidden_states[1], attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()])
    torch.testing.assert_close(again[mask.bool()], theirs[mask.bool()])  # the position bias moved along
    assert upper.last_hidden_state.shape == (2, 7, 48)
    with pytest.raises(RecipeError, match="names layer 3, but the teacher has layers 0 to 2"):
        take_body(teacher, StudentRecipe(layers=(0, 3)))
