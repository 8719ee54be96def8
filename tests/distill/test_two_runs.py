"""Two runs at once: one cache of teacher vectors, or one work folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from kdserve.distill import distill
from kdserve.distill.data.corpus import Corpus, build_corpus
from kdserve.distill.teachers.writer import OutputCache
from kdserve.errors import FolderError
from kdserve.locks import folder_lock
from kdserve.recipe import load_recipe

RUN = """
import sys, time, hashlib
from pathlib import Path
import numpy as np
from kdserve.distill.data.corpus import build_corpus
from kdserve.distill.teachers.embedder import VectorCache
from kdserve.recipe import load_recipe

class Slow:
    "A teacher that does not answer before it is told to."
    dim, fingerprint = 8, "f" * 64

    def encode_fast(self, texts):
        Path(sys.argv[3]).touch()
        while not Path(sys.argv[4]).exists():
            time.sleep(0.02)
        digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
        return np.array([[1 + byte for byte in digest] for digest in digests], dtype=np.float16)

corpus = build_corpus(load_recipe(Path(sys.argv[1])), Path(sys.argv[1] + ".corpus"))
cache = VectorCache(Path(sys.argv[2]), teacher=Slow())
cache.fill(corpus)
expected = Slow().encode_fast(corpus.sources.select(range(len(corpus.sources))))
print(len(corpus.sources), np.array_equal(cache.vectors[cache.rows_of(corpus)], expected))
"""
RECIPE = """
name = "n"
family = "static"
data = [{path = "FILE", language = "de"}]
"""


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    files = [folder / f"{name}.toml", folder / "cache", folder / f"{name}.embeds", folder / "go"]
    command = [sys.executable, "-c", RUN, *map(str, files)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_second_run_waits_and_both_have_their_own_vectors(tmp_path: Path):
    for name, first in (("one", 0), ("two", 30)):  # some sentences in common
        rows = [f"sentence {number}\tSatz {number}" for number in range(first, first + 50)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(rows), encoding="utf-8")
        (tmp_path / f"{name}.toml").write_text(RECIPE.replace("FILE", f"{name}.tsv"), encoding="utf-8")
    one = start(tmp_path, "one")
    while not (tmp_path / "one.embeds").exists() and one.poll() is None:
        time.sleep(0.02)
    two = start(tmp_path, "two")
    said = two.stderr.readline()
    assert "another run is filling" in said
    assert "waiting" in said
    assert not (tmp_path / "two.embeds").exists()
    (tmp_path / "go").touch()
    for process in (one, two):
        out, err = process.communicate(timeout=600)
        assert (out, err) == ("50 True\n", "")
    assert (next((tmp_path / "cache").iterdir()) / "keys.u64").stat().st_size == 80 * 8


class Writes:
    """A teacher that writes each text twice."""

    outputs_key = "e" * 64

    def write(self, texts: list[str], *, language: str) -> list[list[str]]:
        return [[text, f"{language} {text}"] for text in texts]


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[OutputCache, Corpus]:
    (tmp_path / "one.tsv").write_text("".join(f"line {n}\tZeile {n}\n" for n in range(50)), encoding="utf-8")
    (tmp_path / "one.toml").write_text(RECIPE.replace("FILE", "one.tsv"), encoding="utf-8")
    corpus = build_corpus(load_recipe(tmp_path / "one.toml"), tmp_path / "corpus")
    return OutputCache(tmp_path / "cache", Writes()), corpus


def test_a_line_that_another_run_is_writing_is_neither_read_nor_cut(outputs: tuple[OutputCache, Corpus]):
    cache, corpus = outputs
    cache.fill(corpus, np.arange(20))
    with cache.path.open("ab") as other:
        other.write(b'["0123')
    before = cache.path.read_bytes()
    cache.fill(corpus, np.arange(20))
    assert len(cache.read()) == 20
    assert cache.path.read_bytes() == before
    cache.fill(corpus, np.arange(50))  # it is nobody's now
    assert len(cache.read()) == 50
    assert b'["0123[' not in cache.path.read_bytes()


def test_outputs_that_another_run_writes_are_waited_for(outputs: tuple[OutputCache, Corpus], monkeypatch, caplog):
    cache, corpus = outputs
    held = ExitStack()
    held.enter_context(folder_lock(cache.folder))
    monkeypatch.setattr("kdserve.locks.time.sleep", lambda _: held.close())
    cache.fill(corpus, np.arange(50))
    assert "another run is filling" in caplog.text
    assert len(cache.read()) == 50


def test_a_cache_that_cannot_be_written_is_named(outputs: tuple[OutputCache, Corpus], monkeypatch):
    cache, corpus = outputs

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Writes, "write", full)
    with pytest.raises(
        FolderError, match=r"cache/e{16} cannot be written \(No space left on device\); fix that and run"
    ):
        cache.fill(corpus, np.arange(2))


def test_outputs_that_are_there_need_no_lock(outputs: tuple[OutputCache, Corpus]):
    cache, corpus = outputs
    cache.fill(corpus, np.arange(50))
    with folder_lock(cache.folder):
        cache.fill(corpus, np.arange(30))


@pytest.mark.parametrize("line", [b"\xff", b"[]", b"1", b'["a"]', b'["a", "b"]', b'["a", [1]]', b"[[" * 9_000])
def test_a_damaged_line_of_outputs_is_named(outputs: tuple[OutputCache, Corpus], line: bytes):
    cache, corpus = outputs
    cache.fill(corpus, np.arange(2))
    with cache.path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(FolderError, match=r"outputs\.jsonl line 3 is damaged .*; remove the line"):
        cache.fill(corpus, np.arange(2))


def test_one_work_folder_serves_one_run(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    (tmp_path / "student.work").mkdir()
    with folder_lock(tmp_path / "student.work"), pytest.raises(FolderError, match="another process is writing to"):
        distill(tiny_recipe("static", steps=0), tmp_path / "student", cache=teacher_cache)
    distill(tiny_recipe("static", steps=0), tmp_path / "student", cache=teacher_cache)
    assert not (tmp_path / "student.work").exists()
