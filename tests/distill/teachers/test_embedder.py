from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdserve.distill.data.corpus import build_corpus
from kdserve.distill.start.ingredients import gather
from kdserve.distill.teachers.embedder import Teacher, VectorCache, find_teacher
from kdserve.errors import DataError, FolderError


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(find_teacher("all-MiniLM-L6-v2"), device="cpu", batch_size=32)


def test_the_cache_survives_a_stop_at_any_byte(tmp_path: Path, tiny_recipe, teacher: Teacher):
    corpus = build_corpus(tiny_recipe("static"), tmp_path / "corpus")
    whole = VectorCache(tmp_path / "whole", teacher=teacher)
    whole.fill(corpus, chunk=50)
    vectors = whole.vectors[whole.rows_of(corpus)].astype(np.float32)
    own = teacher.encode_document(corpus.sources.select(range(len(corpus.sources))))
    assert (vectors * own).sum(axis=1).min() > 0.9998
    torn = VectorCache(tmp_path / "torn", teacher=teacher)
    torn.keys_path.write_bytes(whole.keys_path.read_bytes()[: 50 * 8 + 3])
    torn.vectors_path.write_bytes(whole.vectors_path.read_bytes()[: 60 * 768 + 11])
    torn.fill(corpus, chunk=50)
    assert torn.vectors.shape == whole.vectors.shape
    np.testing.assert_allclose(torn.vectors[torn.rows_of(corpus)], vectors, atol=2e-3)


def test_a_second_run_embeds_nothing(tmp_path: Path, tiny_recipe, teacher: Teacher, monkeypatch):
    corpus = build_corpus(tiny_recipe("static"), tmp_path / "corpus")
    VectorCache(tmp_path / "c", teacher=teacher).fill(corpus)
    monkeypatch.setattr(teacher, "encode_fast", lambda _: pytest.fail("embedded again"))
    VectorCache(tmp_path / "c", teacher=teacher).fill(corpus)


def test_nan_from_the_teacher_is_refused_with_its_sentence(tmp_path: Path, tiny_recipe, teacher: Teacher, monkeypatch):
    corpus = build_corpus(tiny_recipe("static"), tmp_path / "corpus")

    def broken(texts):
        vectors = np.ones((len(texts), teacher.dim), dtype=np.float16)
        vectors[2, 5] = np.nan
        return vectors

    monkeypatch.setattr(teacher, "encode_fast", broken)
    cache = VectorCache(tmp_path / "c", teacher=teacher)
    with pytest.raises(DataError, match="no usable vector"):
        cache.fill(corpus)
    assert cache.keys_path.stat().st_size == 0


def test_pickled_weights_are_no_teacher(tmp_path: Path):
    folder = tmp_path / "teacher"
    shutil.copytree(find_teacher("all-MiniLM-L6-v2"), folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FolderError, match="teacher has no safetensors; pickled weights are never read"):
        Teacher(folder, device="cpu", batch_size=32)


def test_a_folder_is_found_below_the_data_and_in_the_working_folder(tmp_path: Path, monkeypatch):
    data = tmp_path / "data"
    (data / "below").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_teacher("below", data_dir=str(data)) == data / "below"
    assert find_teacher("here", data_dir=str(data)) == Path("here")
    assert find_teacher(str(tmp_path / "here"), data_dir=str(data)) == tmp_path / "here"
    assert find_teacher("here", data_dir=".") == Path("here")
    (data / "here").mkdir()
    with pytest.raises(FolderError, match="name one by its whole path"):
        find_teacher("here", data_dir=str(data))


def test_an_embedders_recipe_names_a_teacher_below_its_data(tmp_path: Path, tiny_recipe, pairs_folder: Path):
    data = shutil.copytree(pairs_folder, tmp_path / "data")
    (data / "own").symlink_to(find_teacher("all-MiniLM-L6-v2"))
    recipe = replace(tiny_recipe("static", overrides=["teacher.model=own"]), data_dir=str(data))
    assert gather(recipe, tmp_path / "work").teacher.folder == data / "own"
