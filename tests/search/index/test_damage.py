"""Whatever happens to a byte of an index: a clear error, or the same answer. Never another one."""

import random
import shutil

import pytest

from kdserve.errors import FolderError
from kdserve.search import BuildOptions, Document, Retriever, verify_index

FILES = [
    "rows.db",
    "vectors.bin",
    "vectors.sums",
    "passages.i32",
    "index.json",
    "sentences.i32",
    "sentence_vectors.bin",
]
QUERIES = ["text 3", "number nine", "zebra"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, embedder):
    folder = tmp_path_factory.mktemp("damage") / "index"
    documents = [Document(text=f"Nothing else. Text number {n}", metadata={"n": n}) for n in range(40)]
    return Retriever.build(folder, documents, embedder, options=BuildOptions(kind="flat"))


def test_flipped_bytes_and_cut_files_never_give_another_answer(tmp_path, whole, embedder):
    truth = whole.search_batch(QUERIES, 5)
    chance = random.Random(0)
    files = sorted(path.relative_to(whole.folder) for path in whole.folder.rglob("*") if path.is_file())
    num_errors = 0
    for trial in range(120):
        copy = tmp_path / str(trial)
        shutil.copytree(whole.folder, copy)
        path = copy / files[trial % len(files)]
        content = bytearray(path.read_bytes())
        if not content:
            continue
        place = chance.randrange(len(content))
        if trial % 5 == 4:
            del content[place:]
        else:
            content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            assert Retriever.open(copy, embedder).search_batch(QUERIES, 5) == truth, path
        except FolderError:
            num_errors += 1
        shutil.rmtree(copy)
    assert num_errors > 60


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path, whole, embedder, name):
    copy = tmp_path / "index"
    shutil.copytree(whole.folder, copy)
    (copy / "gen-000001" / name).unlink()
    with pytest.raises(FolderError, match=name):
        Retriever.open(copy, embedder)


@pytest.mark.parametrize("name", ["vectors.bin", "sentence_vectors.bin"])
def test_verify_finds_a_damaged_vector_that_no_search_touched(tmp_path, whole, name):
    copy = tmp_path / "index"
    shutil.copytree(whole.folder, copy)
    path = copy / "gen-000001" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FolderError, match="does not match its SHA-256"):
        verify_index(copy)
