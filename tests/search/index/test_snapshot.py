"""Readers beside writers: a sound index is never called damaged, and what is wrong is called by its name."""

import gc
import json
import os
import resource
import shutil
import threading
from pathlib import Path

import pytest

from kdserve.errors import FolderError
from kdserve.manifest import hash_file
from kdserve.search import Document, Retriever, describe, encoder_name, open_snapshot, verify_index

TEXTS = [Document(text=f"It is short. Text number {n}", id=n, metadata={"n": n}) for n in range(20)]


@pytest.fixture
def retriever(tmp_path, embedder):
    return Retriever.build(tmp_path / "index", TEXTS, embedder)


def test_readers_beside_a_writer_see_a_whole_index(retriever, embedder):
    failures, stop = [], threading.Event()
    allowed = {20, 21}

    def read():
        while not stop.is_set():
            try:
                found = Retriever.open(retriever.folder, embedder).search("text number 7", 1)[0].id
                if found != 7 or describe(retriever.folder).documents not in allowed:
                    failures.append("another answer")
                verify_index(retriever.folder)
                with pytest.raises(FolderError, match="does not say which bundle"):
                    encoder_name(retriever.folder)
            except FolderError as error:
                failures.append(str(error))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(15):
        retriever.add([Document(text="one more", id="more")])
        retriever.delete(["more"])
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []


def num_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="files of a process are counted through /proc")
def test_files_close_with_their_snapshot(retriever):
    gc.collect()
    gc.disable()
    try:
        before = num_open_files()
        for n in range(20):
            retriever.add([Document(text="one more", id=f"more {n}")])
            describe(retriever.folder)
            verify_index(retriever.folder)
            open_snapshot(retriever.folder)
        retriever.compact()
        assert num_open_files() <= before
    finally:
        gc.enable()


def test_too_many_open_files_are_said_to_be_that(retriever):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(32)]  # each the lowest number that was free
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, limit[1]))
        for free in range(8):
            with pytest.raises(FolderError, match="too many files are open"):
                held += [open_snapshot(retriever.folder) for _ in range(8)]
            os.close(held.pop(0))
            held = [one for one in held if isinstance(one, int)]
            assert free < 8
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        for one in held:
            os.close(one)
    assert open_snapshot(retriever.folder).num_documents == 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["kdserve.json", "gen-000001/rows.db", "gen-000001/vectors.bin", "gen-000001"])
def test_a_file_that_may_not_be_read_is_said_to_be_that(retriever, name):
    (retriever.folder / name).chmod(0)
    try:
        with pytest.raises(FolderError, match="may not be read by this user; change its permissions"):
            open_snapshot(retriever.folder)
    finally:
        (retriever.folder / name).chmod(0o700)


@pytest.mark.parametrize("name", ["vectors.bin", "rows.db", "passages.i32", "sentences.i32", "sentence_vectors.bin"])
def test_a_file_overwritten_in_its_place_is_noticed_at_the_next_search(retriever, name):
    path = retriever.folder / "gen-000001" / name
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(len(content) // 2)
    with pytest.raises(FolderError, match=f"{name} was overwritten while it was open"):
        retriever.search("text")


@pytest.mark.parametrize("name", ["index.json", "vectors.sums"])
def test_a_file_that_was_read_whole_may_change(retriever, name):
    before = retriever.search("apples", 3)
    os.utime(retriever.folder / "gen-000001" / name, (0, 0))
    assert retriever.search("apples", 3) == before


def test_an_index_that_is_gone_is_searched_by_those_who_have_it_open(retriever):
    before = retriever.search("apples", 3)
    shutil.rmtree(retriever.folder)
    assert retriever.search("apples", 3) == before
    retriever.folder.write_text("a file in its place")
    assert retriever.search("apples", 3) == before


def test_a_file_replaced_by_renaming_is_no_harm_to_those_who_have_it_open(retriever):
    path = retriever.folder / "gen-000001" / "vectors.bin"
    aside = path.with_name("aside")
    aside.write_bytes(bytes(len(path.read_bytes())))
    before = retriever.search("text number 3", 3)
    aside.replace(path)
    assert retriever.search("text number 3", 3) == before


SOUND = [("segments", []), ("asked", {}), ("kin", []), ("window", 10**30), ("deleted", None)]
ODD = [None, True, -1, 1.5, "x", [], {}, 10**30, [[]], "a" * 5000]


@pytest.mark.parametrize(
    "key", ["generation", "kind", "dim", "encoder", "next_id", "segments", "asked", "window", "kin"]
)
def test_odd_values_in_the_state_are_one_clear_line(retriever, key):
    path, pointer = retriever.folder / "gen-000001" / "index.json", retriever.folder / "kdserve.json"
    state, manifest = json.loads(path.read_text()), json.loads(pointer.read_text())
    places = (
        [(state, key)]
        if key != "segments"
        else [(state, key), *((state["segments"][0], k) for k in state["segments"][0])]
    )
    for parent, name in places:
        right = parent[name]
        for value in ODD:
            if value == right and type(value) is type(right):
                continue
            parent[name] = value
            path.write_text(json.dumps(state))
            manifest["files"]["gen-000001/index.json"] = {"size_bytes": path.stat().st_size, "sha256": hash_file(path)}
            pointer.write_text(json.dumps(manifest))
            if (name, value) in SOUND:
                open_snapshot(retriever.folder)
                continue
            with pytest.raises(FolderError) as caught:
                open_snapshot(retriever.folder)
            assert "\n" not in str(caught.value)
        parent[name] = right
