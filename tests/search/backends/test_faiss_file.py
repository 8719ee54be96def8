"""FAISS files are gone through before FAISS opens them."""

import hashlib
import json
import struct

import numpy as np
import pytest

from kdserve.errors import FolderError
from kdserve.search import BuildOptions, Document, Retriever, compact_index
from kdserve.search.backends.kinds import APPROXIMATE

pytest.importorskip("faiss")
NUM_DOCUMENTS = 400


@pytest.fixture(params=[kind.name for kind in APPROXIMATE])
def index(request, tmp_path, embedder):
    documents = [Document(text=f"text number {n}", id=n) for n in range(NUM_DOCUMENTS)]
    options = BuildOptions(kind=request.param, recall=0.5)
    return Retriever.build(tmp_path / "index", documents, embedder, options=options).folder


def replace_file(index, content):
    """Put bytes into the place of the FAISS file, and their checksum into the manifest, as an attacker would."""
    path = index / "gen-000001" / "vectors.faiss"
    path.write_bytes(content)
    manifest = json.loads((index / "kdserve.json").read_text())
    record = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"]["gen-000001/vectors.faiss"] = record
    (index / "kdserve.json").write_text(json.dumps(manifest))


def content_of(index):
    return (index / "gen-000001" / "vectors.faiss").read_bytes()


def test_every_kind_that_is_written_is_read_back(index, embedder):
    assert Retriever.open(index, embedder).search("text number 7", 1)[0].text == "text number 7"
    compact_index(index)
    assert Retriever.open(index, embedder).search("text number 7", 1)[0].text == "text number 7"


@pytest.mark.parametrize("index", [kind.name for kind in APPROXIMATE if kind.name != "hnsw"], indirect=True)
def test_lists_in_another_file_are_refused_and_the_file_is_not_touched(index, tmp_path, embedder):
    content = content_of(index)
    place = max(content.find(b"ilar"), content.find(b"ilbl"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(bytes(4096))
    elsewhere.chmod(0o400)
    (lists,) = struct.unpack_from("<Q", content, place + 4)
    name = str(elsewhere).encode()
    on_disk = b"ilod" + content[place + 4 : place + 20] + struct.pack("<Q", 3 * lists) + bytes(24 * lists)
    on_disk += struct.pack("<QQ", 0, len(name)) + name + struct.pack("<Q", 4096)
    replace_file(index, content[:place] + on_disk)
    with pytest.raises(FolderError, match="code is b'ilod'"):
        Retriever.open(index, embedder)


@pytest.mark.parametrize("code", [b"IxMp", b"IxPT", b"IHNf", b"IwFl", b"null"])
def test_other_types_of_index_are_refused(index, embedder, code):
    replace_file(index, code + content_of(index)[4:])
    with pytest.raises(FolderError, match=f"code is {code!r}"):
        Retriever.open(index, embedder)


@pytest.mark.parametrize("number", [NUM_DOCUMENTS, -2, 2**31 - 1])
def test_a_row_number_past_the_last_row_is_refused(index, embedder, number):
    content = content_of(index)
    if b"ilar" in content or b"ilbl" in content:
        place, kind = content.rfind(struct.pack("<q", NUM_DOCUMENTS - 1)), "<q"
    else:
        links = np.arange(len(content) - 3)  # any four bytes that are the last row's number
        place = next(int(n) for n in links if content[n : n + 4] == struct.pack("<i", NUM_DOCUMENTS - 1) and n > 5000)
        kind = "<i"
    size = struct.calcsize(kind)
    replace_file(index, content[:place] + struct.pack(kind, number) + content[place + size :])
    with pytest.raises(FolderError, match=r"is no .* index of kdserve"):
        Retriever.open(index, embedder)


def test_a_file_that_is_cut_or_goes_on_is_refused(index, embedder):
    content = content_of(index)
    for changed in (content[:-1], content + b"\0", content[: len(content) // 2], content[:3], b""):
        replace_file(index, changed)
        with pytest.raises(FolderError):
            Retriever.open(index, embedder)
