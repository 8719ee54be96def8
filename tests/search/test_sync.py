"""An index that follows a folder."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from trigrams import TrigramEmbedder

import kdserve.search.sync
from kdserve.cli import sync
from kdserve.cli.sync import _changes, _News, _until_written
from kdserve.errors import DataError, FolderError
from kdserve.locks import folder_lock
from kdserve.search import Document, KnownFiles, Retriever, Source, Synced, sync_folder
from kdserve.search.documents import embedding, readers


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


def test_an_index_that_was_built_from_the_folder_follows_it_from_there(
    tmp_path: Path, embedder: TrigramEmbedder, folder: Path
) -> None:
    source = Source(path=folder, format="folder", follow=True)
    retriever = Retriever.build(tmp_path / "built", source.read(), embedder)
    (folder / "a.md").unlink()
    assert sync_folder(retriever, source) == Synced(written=0, deleted=1, unchanged=1)
    assert [hit.id for hit in retriever.search("bread", 9)] == ["deep/b.txt"]


def test_files_are_embedded_as_they_are_read(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(6):
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / "many" / f"{n}.txt").write_text(f"text {n}")
    done, read, embed = [], Source.read_file, retriever.encoder.encode_document
    monkeypatch.setattr(embedding, "CHUNK_DOCUMENTS", 2)
    monkeypatch.setattr(Source, "read_file", lambda self, file: done.append("read") or read(self, file))
    monkeypatch.setattr(
        retriever.encoder, "encode_document", lambda texts: done.append(f"embed {len(texts)}") or embed(texts)
    )
    assert sync_folder(retriever, Source(path=tmp_path / "many", format="folder")).written == 6
    assert done == ["read", "read", "embed 2"] * 3


def test_a_document_with_a_digest_of_its_own_came_another_way(retriever: Retriever, folder: Path) -> None:
    for number, digest in enumerate(("0" * 64, "sha256:" + "0" * 64, "")):
        retriever.add([Document(text="a page", id=f"page-{number}", metadata={"sha256": digest})])
    assert sync_folder(retriever, Source(path=folder, format="folder")).deleted == 0
    assert len(retriever) == 6


def test_a_folder_that_another_one_replaces_is_followed(tmp_path: Path, folder: Path) -> None:
    watchfiles = pytest.importorskip("watchfiles")
    seen = _changes(folder, watchfiles.watch)
    next(seen)
    (folder / "new.txt").write_text("x")
    next(seen)
    folder.rename(tmp_path / "old")
    folder.mkdir()
    (folder / "newer.txt").write_text("y")
    next(seen)
    assert [path.name for path in folder.iterdir()] == ["newer.txt"]
    (folder / "newest.txt").write_text("z")
    next(seen)


def test_a_change_while_another_process_writes_is_written_when_it_is_done(
    retriever: Retriever, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, tries = Source(path=folder, format="folder"), []
    with ExitStack() as other:
        other.enter_context(folder_lock(retriever.folder))
        monkeypatch.setattr(sync.time, "sleep", lambda _: tries.append(1) or (len(tries) == 2 and other.close()))
        _until_written(lambda: sync_folder(retriever, source) and None)
    assert len(tries) == 2
    assert len(retriever) == 3
    assert capsys.readouterr().err.count("another process is writing") == 1


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


def test_files_that_cannot_be_read_are_told_and_the_others_followed(
    retriever: Retriever, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(path=folder, format="folder")
    sync_folder(retriever, source)
    (folder / "a.md").write_bytes(b"caf\xe9")
    (folder / os.fsdecode(b"odd\xff.txt")).write_text("no name")
    (folder / "c.txt").write_text("new")
    with caplog.at_level(logging.WARNING, logger="kdserve"):
        assert sync_folder(retriever, source) == Synced(written=1, deleted=0, unchanged=1)
    assert dict(source.skipped) == {".md that cannot be read": 1, ".txt that cannot be read": 1}
    assert "a.md line 1 is not UTF-8" in caplog.text
    assert "odd\udcff.txt has a name that is no UTF-8; rename it" in caplog.text
    assert "# Bread\n\nStill warm." in {hit.text for hit in retriever.search("bread", 9)}


def test_a_file_that_is_gone_before_it_is_opened_keeps_its_document_until_the_next_time(
    retriever: Retriever, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(path=folder, format="folder")
    sync_folder(retriever, source)
    listed = source.begin()
    (folder / "a.md").unlink()
    with monkeypatch.context() as before:
        before.setattr(Source, "begin", lambda _: listed)
        assert sync_folder(retriever, source) == Synced(written=0, deleted=0, unchanged=1)
    assert sync_folder(retriever, source) == Synced(written=0, deleted=1, unchanged=1)


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_a_file_that_lost_its_text_loses_its_document(retriever: Retriever, folder: Path, text: str) -> None:
    source = Source(path=folder, format="folder")
    sync_folder(retriever, source)
    (folder / "a.md").write_text(text)
    assert sync_folder(retriever, source) == Synced(written=0, deleted=1, unchanged=1)
    assert {hit.id for hit in retriever.search("bread", 9)} == {"deep/b.txt", "other"}


def test_a_folder_of_which_nothing_can_be_read_empties_no_index(
    retriever: Retriever, folder: Path, tmp_path: Path
) -> None:
    sync_folder(retriever, Source(path=folder, format="folder"))
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "x.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="nothing was changed"):
        sync_folder(retriever, Source(path=tmp_path / "others", format="folder"))
    assert len(retriever) == 3


def test_what_a_folder_holds_beside_texts_is_counted(retriever: Retriever, folder: Path) -> None:
    source = Source(path=folder, format="folder")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "deep" / "round").symlink_to(folder)
    for _ in range(2):
        sync_folder(retriever, source)
        assert source.skipped == {".png": 1, "link to a folder, which is not followed": 1}


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the files whose content was read, until it is cleared."""
    read, hash_file = set(), readers.hash_file
    monkeypatch.setattr(readers, "hash_file", lambda path: read.add(path.name) or hash_file(path))
    return read


def test_who_synchronises_again_reads_only_what_has_changed(
    retriever: Retriever, folder: Path, monkeypatch: pytest.MonkeyPatch, files_read: set[str]
) -> None:
    source, known = Source(path=folder, format="folder"), KnownFiles()
    (folder / "blank.md").write_text(" \n")
    rounds = []

    def synchronise() -> None:
        files_read.clear()
        with suppress(FolderError):
            sync_folder(retriever, source, files_known=known)
        rounds.append(sorted(files_read))

    monkeypatch.setattr(kdserve.search.sync, "REST_NS", 10**15)
    synchronise()
    synchronise()  # files so young that another change may leave no trace
    monkeypatch.setattr(kdserve.search.sync, "REST_NS", 0)
    synchronise()
    synchronise()
    (folder / "a.md").write_text("# Bread\n\nCold by now.")
    with folder_lock(retriever.folder):
        synchronise()
    synchronise()
    every = ["a.md", "b.txt", "blank.md"]
    assert rounds == [every, every, every, [], ["a.md"], ["a.md"]]
    assert source.skipped == {".md without a text": 1}
    assert len(retriever) == 3
    (folder / "blank.md").write_text("Cold by now too.")
    assert sync_folder(retriever, source, files_known=known) == Synced(written=1, deleted=0, unchanged=2)


def test_a_folder_of_which_nothing_has_a_text_empties_no_index_the_second_time(
    retriever: Retriever, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kdserve.search.sync, "REST_NS", 0)
    source, known = Source(path=folder, format="folder"), KnownFiles()
    sync_folder(retriever, source, files_known=known)
    for path in (folder / "a.md", folder / "deep" / "b.txt"):
        path.write_text("")
    for _ in range(2):
        with pytest.raises(DataError, match="nothing was changed"):
            sync_folder(retriever, source, files_known=known)
    assert len(retriever) == 3


def test_a_round_tells_what_the_round_before_did_not(caplog: pytest.LogCaptureFixture) -> None:
    news, told = _News(), []
    for lines in (["a", "b"], ["b", "c"], [], ["b"]):
        caplog.clear()
        with news.round():
            for line in lines:
                logging.getLogger("kdserve").warning(line)
            told.append((caplog.messages[:], news.is_new("skipped 1 .png")))
    assert told == [(["a", "b"], True), (["c"], False), ([], False), (["b"], False)]
