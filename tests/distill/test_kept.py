"""What a kill or a full disk left half-made in a work folder, and what was cut since, is made again."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kdserve.distill.kept import keep, kept
from kdserve.distill.start.ingredients import gather_texts


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("spoil", [Path.unlink, cut, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["record.json", "ids"])
def test_a_record_counts_with_its_files_alone(tmp_path: Path, spoil, name: str):
    (tmp_path / "ids").write_bytes(b"1234")
    keep(tmp_path / "record.json", "key", files=[tmp_path / "ids"], words=["a"])
    assert kept(tmp_path / "record.json", "key")["words"] == ["a"]
    assert kept(tmp_path / "record.json", "other") is None
    spoil(tmp_path / name)
    assert kept(tmp_path / "record.json", "key") is None


@pytest.mark.parametrize(
    "text", ["", "1", "null", '"key"', "{}", '{"key": "key"}', '{"key": "key", "sizes": 1}', "[[["]
)
def test_what_is_no_record_is_none(tmp_path: Path, text: str):
    (tmp_path / "record.json").write_text(text, encoding="utf-8")
    assert kept(tmp_path / "record.json", "key") is None


def test_a_disk_that_is_full_at_the_record_leaves_the_one_before(tmp_path: Path, monkeypatch):
    keep(tmp_path / "record.json", "before")

    def full(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        keep(tmp_path / "record.json", "after")
    assert kept(tmp_path / "record.json", "before") is not None


def test_every_file_of_a_corpus_and_its_tokens_may_be_cut(tmp_path: Path, tiny_recipe):
    recipe, work = tiny_recipe("static", overrides=["vocabulary.folder=''", "vocabulary.size=600"]), tmp_path / "work"
    before, _, tokens = gather_texts(recipe, work)
    texts, ids = before.sources.select(range(9)), tokens.ids.tolist()
    paths = [path for path in work.rglob("*") if path.is_file()]
    assert {path.name for path in paths} >= {"sources.txt", "held_out.npy", "corpus.json", "ids.i32", "vocabulary.json"}
    for path in paths:
        cut(path)
        after, _, tokens = gather_texts(recipe, work)
        assert (after.sources.select(range(9)), tokens.ids.tolist()) == (texts, ids)
        assert after.digest == before.digest
