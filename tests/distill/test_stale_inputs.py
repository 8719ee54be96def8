"""Nothing that was made from another input is used again: not where size, line count and date are those of before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kdserve.distill import distill
from kdserve.distill.prepare.classifier_ingredients import gather_classifier
from kdserve.distill.start.ingredients import gather
from kdserve.distill.start.student import start_student
from kdserve.distill.teachers.embedder import find_teacher
from kdserve.errors import DataError, FolderError
from kdserve.recipe import load_recipe

RECIPE = """
name = "tiny"
family = "static"
data = [{path = "pairs.tsv", language_column = "language", source = "english", translation = "other"}]
vocabulary = {size = 700, folder = "vocabulary"}
student = {max_tokens = 24}
train = {steps = 2, batch_size = 16, checkpoint_every = 1, precision = "fp32"}
validation = {permille = 150}
"""
LABELS = """
[classifier]
mode = "supervised"
labelled = "train.tsv"
development = "development.tsv"
target = "target.{language}.tsv"
"""


@pytest.fixture
def folder(tmp_path: Path, labelled_folder: Path) -> Path:
    """The inputs of a student and of a classifier, of few labelled texts, in a folder of the test's own."""
    shutil.copytree(labelled_folder, tmp_path / "data")
    for name, source in (("train", "train"), ("development", "train"), ("target.de", "target.de")):
        lines = (labelled_folder / f"{source}.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / "data" / f"{name}.tsv").write_text("".join(lines[:25]), encoding="utf-8")
    (tmp_path / "data" / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "data" / "classifier.toml").write_text(RECIPE + LABELS, encoding="utf-8")
    return tmp_path / "data"


def swap(path: Path, old: str, new: str) -> None:
    """Put other bytes of the same length into a file, and its old date on it."""
    data, stat = path.read_bytes(), path.stat()
    assert len(old.encode()) == len(new.encode())
    assert old.encode() in data
    before, _, behind = data.rpartition(old.encode())
    path.write_bytes(before + new.encode() + behind)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def made_in(folder: Path, work: Path, cache: Path, *overrides: str) -> dict[str, object]:
    """All that training begins with, and the keys that checkpoints have."""
    recipe = load_recipe(folder / "recipe.toml", overrides=overrides)
    made = gather(recipe, work, cache=cache)
    corpus, tokens = made.corpus, made.data.tokens
    return {
        "run": made.run_key(recipe),
        "table": made.table_key(recipe),
        "body": made.body_key(recipe),
        "texts": corpus.translations.select(range(len(corpus.translations))),
        "ids": tokens.ids.tolist(),
        "tokenizer": made.tokenizer.to_str(),
        "vectors": made.data.vectors[made.data.row_of].astype(np.float32).tolist(),
        "weights": start_student(recipe, made, work).table.tolist(),
    }


@pytest.mark.parametrize(
    ("edited", "old", "new", "changes"),
    [
        ("pairs.tsv", "Der", "Die", {"run", "table", "body", "texts", "ids"}),
        ("pairs.tsv", "\tThe ", "\tOne ", {"run", "table", "body", "vectors"}),
        ("vocabulary/tokenizer.json", '"▁der"', '"▁dEr"', {"run", "table", "ids", "tokenizer", "weights"}),
    ],
)
def test_a_student_is_made_of_what_the_files_hold_now(
    tmp_path: Path, folder: Path, teacher_cache: Path, edited: str, old: str, new: str, changes: set[str]
):
    before = made_in(folder, tmp_path / "kept", teacher_cache)
    swap(folder / edited, old, new)
    after = made_in(folder, tmp_path / "kept", teacher_cache)
    assert after == made_in(folder, tmp_path / "fresh", teacher_cache)
    assert {name for name in after if after[name] != before[name]} >= changes


def test_a_trained_vocabulary_is_that_of_the_texts_and_settings(tmp_path: Path, folder: Path, teacher_cache: Path):
    trained = ["vocabulary.folder=''", "vocabulary.size=600"]
    before = made_in(folder, tmp_path / "kept", teacher_cache, *trained)
    swap(folder / "pairs.tsv", "Ich", "Ihr")
    after = made_in(folder, tmp_path / "kept", teacher_cache, *trained)
    assert after == made_in(folder, tmp_path / "fresh", teacher_cache, *trained)
    assert after["tokenizer"] != before["tokenizer"]


def test_a_shorter_cut_solves_another_table(tmp_path: Path, folder: Path, teacher_cache: Path):
    made_in(folder, tmp_path / "kept", teacher_cache)
    after = made_in(folder, tmp_path / "kept", teacher_cache, "student.max_tokens=6")
    assert after == made_in(folder, tmp_path / "fresh", teacher_cache, "student.max_tokens=6")


def test_batches_of_another_kind_fit_another_body(tmp_path: Path, folder: Path, teacher_cache: Path):
    by_texts = made_in(folder, tmp_path / "kept", teacher_cache)
    by_tokens = made_in(folder, tmp_path / "kept", teacher_cache, "train.batch_by=tokens")
    assert by_texts["body"] != by_tokens["body"]


def test_another_teacher_in_the_same_folder_gives_other_vectors(tmp_path: Path, folder: Path):
    teacher = tmp_path / "teacher"
    shutil.copytree(find_teacher("all-MiniLM-L6-v2"), teacher)
    named = f"teacher.model={teacher}"
    before = made_in(folder, tmp_path / "kept", tmp_path / "cache", named)
    weights, stat = teacher / "model.safetensors", (teacher / "model.safetensors").stat()
    tensors = load_file(weights)
    tensors["encoder.layer.0.output.dense.bias"] = tensors["encoder.layer.0.output.dense.bias"].flip(0)
    save_file(tensors, weights, {"format": "pt"})
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights.stat().st_size == stat.st_size
    after = made_in(folder, tmp_path / "kept", tmp_path / "cache", named)
    assert after == made_in(folder, tmp_path / "fresh", tmp_path / "other", named)
    assert {name for name in after if after[name] != before[name]} >= {"run", "table", "body", "vectors", "weights"}


@pytest.mark.parametrize("edited", ["train.tsv", "development.tsv", "target.de.tsv", "pairs.tsv"])
def test_a_classifier_is_made_of_what_the_files_hold_now(
    tmp_path: Path, folder: Path, teacher_cache: Path, edited: str
):
    recipe = load_recipe(folder / "classifier.toml")

    def key_and_head(work: str) -> tuple[str, torch.Tensor]:
        made = gather_classifier(recipe, tmp_path / work, cache=teacher_cache)
        return made.run_key(recipe), made.student.head.weight.detach()

    before = key_and_head("kept")
    swap(folder / edited, "e", "a")
    after, fresh = key_and_head("kept"), key_and_head("fresh")
    assert after[0] == fresh[0] != before[0]
    assert torch.equal(after[1], fresh[1])


def test_a_checkpoint_of_other_texts_is_refused(tmp_path: Path, folder: Path, teacher_cache: Path, monkeypatch):
    recipe = load_recipe(folder / "recipe.toml")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdserve.distill.run.EmbeddingRun.save", stop)
    with pytest.raises(KeyboardInterrupt):
        distill(recipe, tmp_path / "student", cache=teacher_cache)
    monkeypatch.undo()
    swap(folder / "pairs.tsv", "Der", "Die")
    with pytest.raises(FolderError, match=r"belongs to another recipe or other data; remove"):
        distill(recipe, tmp_path / "student", cache=teacher_cache)


def test_a_language_without_a_pair_is_named(tmp_path: Path, folder: Path, teacher_cache: Path):
    recipe = load_recipe(folder / "recipe.toml", overrides=["languages=['de','xx','en']", "weak_languages=['ja','yy']"])
    with pytest.raises(DataError, match="the recipe names xx, yy, but its data has no such pair"):
        distill(recipe, tmp_path / "student", cache=teacher_cache)
    assert not list(tmp_path.glob("student*"))
