"""An index that follows a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trigrams import TrigramEmbedder

from kdserve.errors import DataError
from kdserve.search import Document, Retriever, Source, Synced, sync_folder


@pytest.fixture
def retriever(tmp_path: Path, embedder: TrigramEmbedder) -> Retriever:
    return Retriever.build(tmp_path / "index", [Document(text="came another way", id="other")], embedder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("# Bread\n\nStill warm.")
    (folder / "deep" / "b.txt").write_text("a night train")
    return folder


def test_new_changed_and_gone_files_are_written_and_deleted(retriever: Retriever, folder: Path) -> None:
    source = Source(path=folder, format="folder")
    assert sync_folder(retriever, source) == Synced(written=2, deleted=0, unchanged=0)
    assert sync_folder(retriever, source) == Synced(written=0, deleted=0, unchanged=2)
    (folder / "a.md").write_text("# Bread\n\nCold by now.")
    (folder / "deep" / "b.txt").rename(folder / "c.txt")
    assert sync_folder(retriever, source) == Synced(written=2, deleted=1, unchanged=0)
    found = {hit.id: hit.text for hit in retriever.search("bread", 9)}
    assert found == {"a.md": "# Bread\n\nCold by now.", "c.txt": "a night train", "other": "came another way"}


def test_a_file_of_the_same_size_and_time_but_another_content_is_written(retriever: Retriever, folder: Path) -> None:
    source, path = Source(path=folder, format="folder"), folder / "deep" / "b.txt"
    sync_folder(retriever, source)
    before = path.stat()
    path.write_text("a night brain")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sync_folder(retriever, source).written == 1


def test_a_folder_that_lost_everything_empties_no_index(retriever: Retriever, folder: Path) -> None:
    source = Source(path=folder, format="folder")
    sync_folder(retriever, source)
    (folder / "a.md").unlink()
    (folder / "deep" / "b.txt").unlink()
    with pytest.raises(DataError, match="holds no"):
        sync_folder(retriever, source)
    assert len(retriever) == 3


def test_a_file_that_cannot_be_read_any_more_keeps_its_document(retriever: Retriever, folder: Path) -> None:
    pytest.importorskip("lxml", reason="needs the extra documents")
    source = Source(path=folder, format="folder")
    (folder / "d.html").write_text("<p>web page</p>")
    sync_folder(retriever, source)
    (folder / "d.html").write_bytes(b"\xff")
    assert sync_folder(retriever, source) == Synced(written=0, deleted=0, unchanged=2)
    assert "web page" in {hit.text for hit in retriever.search("web page", 9)}
