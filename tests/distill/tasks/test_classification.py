from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch.nn import functional
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from kdserve import samples
from kdserve.cli.distill import kept_weights
from kdserve.distill import distill, prepare
from kdserve.distill.objectives.vectors import soft_label_loss
from kdserve.distill.tasks.classification import NO_LABEL
from kdserve.distill.teachers.classifier import SequenceTeacher
from kdserve.distill.teachers.embedder import find_teacher
from kdserve.distill.teachers.head import LabelledVectors, fit_head
from kdserve.distill.training.trainer import Trainer
from kdserve.errors import DataError, FolderError, RecipeError
from kdserve.manifest import verify_folder
from kdserve.recipe import load_recipe


def test_soft_label_loss_is_hintons_with_the_mean_over_the_batch():
    student, teacher = (
        torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]]),
        torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 1.0]]),
    )
    ours, theirs = (student / 3).softmax(-1), (teacher / 3).softmax(-1)
    by_hand = 9 * (theirs * (theirs.log() - ours.log())).sum(dim=-1).mean()
    assert soft_label_loss(student, teacher, temperature=3.0).item() == pytest.approx(by_hand.item(), rel=1e-6)
    shifted = soft_label_loss(student, teacher.log_softmax(-1), temperature=3.0)
    assert shifted.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert soft_label_loss(teacher + 5, teacher, temperature=1.0).item() == pytest.approx(0, abs=1e-6)


def test_a_head_separates_what_can_be_separated_and_bends_to_development_texts():
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(60) % 3
    vectors = functional.normalize(torch.eye(8)[label] + 0.2 * torch.randn(60, 8, generator=generator), dim=-1)
    train = LabelledVectors(vectors_ND=vectors, label_N=label)
    assert (fit_head(train, 3).logits(vectors).argmax(-1) == label).all()
    noisy = LabelledVectors(vectors_ND=vectors, label_N=(label + 1) % 3)
    strict, loose = fit_head(train, 3, development=noisy), fit_head(train, 3, development=train)
    assert strict.weight_DK.norm() < loose.weight_DK.norm()


@pytest.mark.parametrize("mode", ["zero-shot", "unsupervised", "semi-supervised", "supervised"])
def test_every_mode_makes_a_student_with_a_head(tmp_path: Path, classifier_recipe, teacher_cache: Path, mode: str):
    outcome = distill(classifier_recipe(mode), tmp_path / "student", cache=teacher_cache)
    manifest = verify_folder(tmp_path / "student", kind="student")
    assert manifest.settings["labels"] == ["question", "statement"]
    assert manifest.settings["languages"] == ["de", "en", "ja"]
    assert set(manifest.parents) == {"teacher"}
    assert set(outcome.accuracy.by_language) == {"de", "ja"}
    head = load_file(tmp_path / "student" / "head.safetensors")
    vectors = SentenceTransformer(str(tmp_path / "student"), device="cpu").encode(samples.parallel()["en"][:120])
    named = (torch.from_numpy(vectors) @ head["weight"].T + head["bias"]).argmax(-1).numpy()
    wanted = np.array([not sentence.endswith("?") for sentence in samples.parallel()["en"][:120]])
    assert (named == wanted).mean() > 0.9
    assert not (tmp_path / "student.work").exists()


def test_a_head_alone_is_not_blamed_for_steps_that_gave_nothing(tmp_path: Path, classifier_recipe, teacher_cache: Path):
    recipe = classifier_recipe("zero-shot", overrides=["validation.permille=10"])
    outcome = distill(recipe, tmp_path / "student", cache=teacher_cache)
    assert kept_weights(recipe, outcome.best_step) == "zero-shot: only the head was trained"
    assert not outcome.accuracy.by_language
    card = (tmp_path / "student" / "README.md").read_text(encoding="utf-8")
    assert "too few were held out to measure it by language; weights of step 0 of 0." in card


def test_batches_mix_soft_and_hard_labels_and_depend_on_seed_and_step(tmp_path: Path, classifier_recipe, teacher_cache):
    recipe = classifier_recipe("supervised", overrides=["classifier.label_share=0.25"])
    run = prepare(recipe, tmp_path / "work", cache=teacher_cache)
    first = run.task.batches(start=0, stride=1, offset=0)
    drawn = [next(first) for _ in range(3)]
    again = next(run.task.batches(start=2, stride=1, offset=0))
    assert torch.equal(drawn[2].ids_BT, again.ids_BT)
    assert torch.equal(drawn[2].label_B, again.label_B)
    batch = drawn[0]
    assert ((batch.label_B != NO_LABEL).sum(), len(batch.label_B)) == (4, 16)
    assert not batch.teacher_BD[:12].isnan().any()
    losses = run.task.losses(run.student, batch, step=0, autocast=nullcontext)
    assert {name: weight for name, (weight, _) in losses.items()} == {"soft": 0.5, "hard": 0.5}


def test_head_only_leaves_the_body_alone(tmp_path: Path, classifier_recipe, teacher_cache: Path):
    recipe = classifier_recipe(overrides=["classifier.head_only=true"])
    run = prepare(recipe, tmp_path / "work", cache=teacher_cache)
    before = {name: value.clone() for name, value in run.student.state_dict().items()}
    run.train()
    last = load_file(run.work / "train" / "last.safetensors")
    assert torch.equal(last["student.encoder.table"], before["encoder.table"])
    assert not torch.equal(last["student.head.weight"], before["head.weight"])


def test_a_killed_classifier_run_goes_on_to_the_same_weights(tmp_path: Path, classifier_recipe, teacher_cache: Path):
    recipe = classifier_recipe("supervised")
    weights = []
    for stops in ((8,), (4, 8)):
        folder = tmp_path / str(len(stops))
        for stop in stops:
            trainer = prepare(recipe, folder, cache=teacher_cache).trainer()
            if stop < recipe.train.steps:
                trainer._save = _stop_after(trainer, stop)
                with pytest.raises(KeyboardInterrupt):
                    trainer.run()
            else:
                trainer.run()
        weights.append(load_file(folder / "train" / "last.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def _stop_after(trainer: Trainer, stop: int):
    save = trainer._save

    def save_and_stop() -> None:
        save()
        if trainer.step == stop:
            raise KeyboardInterrupt

    return save_and_stop


@pytest.fixture(scope="module")
def sequence_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with two labels, drawn at random."""
    folder = tmp_path_factory.mktemp("sequence")
    tokenizer = AutoTokenizer.from_pretrained(find_teacher("all-MiniLM-L6-v2"))
    torch.manual_seed(0)
    names = {0: "statement", 1: "question"}
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_any_sequence_classifier_can_teach(tmp_path: Path, classifier_recipe, sequence_folder: Path):
    teacher = SequenceTeacher(sequence_folder, batch_size=2)
    texts = ["Where is it?", "A longer sentence than the others stands here.", "No."]
    together, alone = teacher.score(texts), np.concatenate([teacher.score([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=5e-3)
    np.testing.assert_allclose(np.exp(together.astype(np.float64)).sum(axis=1), 1, atol=2e-3)
    recipe = classifier_recipe(overrides=[f"classifier.teacher={sequence_folder}"])
    distill(recipe, tmp_path / "student", cache=tmp_path / "cache")
    assert verify_folder(tmp_path / "student", kind="student").settings["labels"] == ["statement", "question"]


@pytest.mark.parametrize("kind", ["head", "sequence"])
def test_a_classifier_learns_inside_the_body_too(
    tmp_path: Path, classifier_recipe, teacher_cache: Path, sequence_folder: Path, kind: str
):
    inside = ["layers.hidden=1.0", "layers.attention=1.0", "layers.relations=1.0", "layers.relation_heads=2"]
    teacher = {"head": ["layers.map=[[0, 0], [1, 5]]"], "sequence": ["layers.map=[[1, 0]]"]}[kind]
    if kind == "sequence":  # 16 wide, the student 384: the hidden states meet in a projection that is trained and saved
        teacher += [f"classifier.teacher={sequence_folder}", "train.steps=16"]
    overrides = ["family=transformer", "student.layers=[0, 5]", "train.body_rate=1e-3", "train.steps=32"]
    recipe = classifier_recipe(overrides=[*overrides, *inside, *teacher])
    run = prepare(recipe, tmp_path / "work", cache=teacher_cache if kind == "head" else tmp_path)
    run.train()
    rows = [json.loads(line) for line in (run.work / "train" / "log.jsonl").read_text().splitlines()]
    for name in ("hidden", "attention", "relations"):
        assert rows[-1][name] < rows[1][name], name
    kept = load_file(run.work / "train" / "last.safetensors")
    assert ("layers.projection.weight" in kept) == (kind == "sequence")


def test_inside_of_a_static_student_there_is_nothing_to_learn(tmp_path: Path, classifier_recipe, teacher_cache: Path):
    with pytest.raises(RecipeError, match=r'layers\.\* needs family = "transformer"'):
        distill(
            classifier_recipe(overrides=["layers.map=[[0, 0]]", "layers.hidden=1.0"]),
            tmp_path / "student",
            cache=teacher_cache,
        )


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path, classifier_recipe, sequence_folder: Path):
    with pytest.raises(FolderError, match=r"has no config\.json"):
        distill(classifier_recipe(overrides=["classifier.teacher=none"]), tmp_path / "a")
    embedder = find_teacher("all-MiniLM-L6-v2")
    with pytest.raises(FolderError, match=r"lacks trained weights \(classifier\.bias\)"):
        distill(classifier_recipe(overrides=[f"classifier.teacher={embedder}"]), tmp_path / "b")
    bad = classifier_recipe(overrides=[f"classifier.teacher={sequence_folder}", "classifier.label=text"])
    with pytest.raises(DataError, match="which the teacher does not know"):
        distill(bad, tmp_path / "c")
    assert not any((tmp_path / name).exists() for name in ("a", "b", "c", "c.work"))


LANGUAGE = """
name = "which"
family = "static"
[[data]]
path = "sample"
[vocabulary]
size = 3000
[student]
max_tokens = 64
table_bits = 8
[student.body]
width = 16
[classifier]
mode = "language"
[train]
steps = 150
batch_size = 128
table_rate = 5e-2
temperature = 1.0
source_share = 0.1
precision = "fp32"
evaluate_every = 150
[validation]
permille = 150
"""


def test_a_student_learns_to_name_languages_without_a_teacher(tmp_path: Path):
    (tmp_path / "r.toml").write_text(LANGUAGE, encoding="utf-8")
    outcome = distill(load_recipe(tmp_path / "r.toml"), tmp_path / "student")
    settings = verify_folder(tmp_path / "student", kind="student").settings
    assert settings["labels"] == sorted(samples.parallel())
    assert settings["dim"] == 16
    assert set(outcome.accuracy.by_language) == set(samples.parallel())
    assert outcome.accuracy.mean > 0.9
    with pytest.raises(RecipeError, match="layers needs a teacher"):
        load_recipe(tmp_path / "r.toml", overrides=["layers.map=[[0, 0]]", "layers.hidden=1.0"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["classifier.labelled="], r"classifier\.labelled is missing"),
        (["classifier.mode=supervised", "classifier.target="], r"classifier\.target is missing, which supervised"),
        (["classifier.target=x.tsv"], r"classifier\.target needs \{language\}"),
        (["classifier.alpha=1.5"], r"classifier\.alpha is 1\.5; it must lie in \[0, 1\]"),
        (["classifier.temperature=0"], r"classifier\.temperature is 0\.0; it must lie in \(0, inf\)"),
        (["classifier.mode=language"], "language takes no teacher, files or labels"),
        (["classifier.mode="], r"classifier\.mode is ''; choose one of"),
        (["classifier.mode=all"], r"classifier\.mode is 'all'; choose one of"),
        (['classifier.labels=["a", "a"]'], "names a label twice"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(classifier_recipe, overrides, message):
    with pytest.raises(RecipeError, match=message):
        classifier_recipe(overrides=overrides)
