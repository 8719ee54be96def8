"""Builds that are killed go on; builds that fail leave nothing."""

from dataclasses import replace

import pytest
from trigrams import TrigramEmbedder

from kdserve.errors import DataError, FolderError
from kdserve.search import BuildOptions, Document, Retriever, describe
from kdserve.search.documents import embedding
from kdserve.search.index import build as build_module

OPTIONS = BuildOptions(resume_key="these documents")


class Killed(KeyboardInterrupt):
    """An end from outside. tests/search/test_crash_trials.py does it with kill -9."""


def documents(num=50):
    return [Document(text=f"text number {n}") for n in range(num)]


def documents_of_sentences():
    return [Document(text="It has another sentence. " * (n % 3) + f"Text number {n}") for n in range(50)]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(embedding, "CHUNK_DOCUMENTS", 4)
    monkeypatch.setattr(build_module, "CHECKPOINT_S", 0.0)


class Counting:
    """Counts the texts that it embeds, and dies when asked to."""

    def __init__(self, embedder, dies_after=None):
        self.embedder, self.dies_after, self.num_texts = embedder, dies_after, 0
        self.dim, self.fingerprint = embedder.dim, embedder.fingerprint
        self.encode_query = embedder.encode_query

    def encode_document(self, texts):
        if self.dies_after is not None and self.num_texts >= self.dies_after:
            raise Killed
        self.num_texts += len(texts)
        return self.embedder.encode_document(texts)


def test_a_thousand_metadata_names_and_no_more(tmp_path, embedder):
    metadata = {f"name {n}": n for n in range(1000)}
    built = Retriever.build(tmp_path / "index", [Document(text="a", metadata=metadata)], embedder)
    assert built.search("a", 1, where='field["name 999"] == 999')[0].metadata == metadata
    with pytest.raises(DataError, match="more than 1000 different names"):
        Retriever.build(tmp_path / "more", [Document(text="a", metadata={**metadata, "one": 1})], embedder)


@pytest.mark.usefixtures("small_chunks")
def test_a_killed_build_embeds_only_what_was_missing(tmp_path, embedder):
    with pytest.raises(Killed):
        Retriever.build(tmp_path / "index", documents(), Counting(embedder, dies_after=24), options=OPTIONS)
    second = Counting(embedder)
    resumed = Retriever.build(tmp_path / "index", documents(), second, options=OPTIONS)
    whole = Retriever.build(tmp_path / "whole", documents(), embedder)
    assert second.num_texts == 50 - 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "whole"]
    assert resumed.search("number 7", 50) == whole.search("number 7", 50)


@pytest.mark.usefixtures("small_chunks")
def test_a_killed_build_with_sentences_ends_as_one_that_was_not(tmp_path, embedder):
    with pytest.raises(Killed):
        Retriever.build(
            tmp_path / "index", documents_of_sentences(), Counting(embedder, dies_after=30), options=OPTIONS
        )
    second = Counting(embedder)
    resumed = Retriever.build(tmp_path / "index", documents_of_sentences(), second, options=OPTIONS)
    assert second.num_texts == 50 + sum(n % 3 + 1 for n in range(50) if n % 3) - 32
    Retriever.build(tmp_path / "whole", documents_of_sentences(), embedder, options=OPTIONS)
    for name in ("sentences.i32", "sentence_vectors.bin", "sentence_vectors.sums", "vectors.bin"):
        first, other = (tmp_path / one / "gen-000001" / name for one in ("index", "whole"))
        assert first.read_bytes() == other.read_bytes(), name
    assert describe(resumed.folder).sentences == 82


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("options", [BuildOptions(), BuildOptions(resume_key="other documents")])
def test_a_killed_build_of_something_else_is_not_gone_on_with(tmp_path, embedder, options):
    with pytest.raises(Killed):
        Retriever.build(tmp_path / "index", documents(), Counting(embedder, dies_after=24), options=OPTIONS)
    second = Counting(embedder)
    assert len(Retriever.build(tmp_path / "index", documents(10), second, options=options)) == 10
    assert second.num_texts == 10


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("other", "options"),
    [
        (TrigramEmbedder(seed=1), OPTIONS),
        (TrigramEmbedder(dim=128), OPTIONS),
        (TrigramEmbedder(), replace(OPTIONS, precision="int8")),
        (TrigramEmbedder(), replace(OPTIONS, lexical=True)),
        (TrigramEmbedder(), replace(OPTIONS, sentences=False)),
    ],
)
def test_a_killed_build_of_other_settings_is_not_gone_on_with_whatever_its_key(tmp_path, embedder, other, options):
    with pytest.raises(Killed):
        Retriever.build(tmp_path / "index", documents(), Counting(embedder, dies_after=24), options=OPTIONS)
    second = Counting(other)
    built = Retriever.build(tmp_path / "index", documents(), second, options=options)
    assert second.num_texts == 50
    assert [built.search(f"text number {n}", 1, lexical=options.lexical)[0].id for n in (3, 30)] == [3, 30]


@pytest.mark.usefixtures("small_chunks")
def test_a_killed_build_whose_file_is_damaged_since_says_so_and_begins_anew_the_next_time(tmp_path, embedder):
    with pytest.raises(Killed):
        Retriever.build(tmp_path / "index", documents(), Counting(embedder, dies_after=24), options=OPTIONS)
    next(tmp_path.glob(".index.partial/*/rows.db")).write_bytes(b"no database " * 1000)
    with pytest.raises(FolderError, match="file is not a database"):
        Retriever.build(tmp_path / "index", documents(), embedder, options=OPTIONS)
    assert len(Retriever.build(tmp_path / "index", documents(), embedder, options=OPTIONS)) == 50


def test_a_full_disk_leaves_nothing(tmp_path, embedder, file_size_limit):
    with file_size_limit(20_000), pytest.raises(FolderError, match="cannot be written"):
        Retriever.build(tmp_path / "index", documents(2000), embedder)
    assert not any(tmp_path.iterdir())


def test_a_build_that_is_stopped_without_a_key_leaves_nothing(tmp_path, embedder):
    with pytest.raises(Killed):
        Retriever.build(tmp_path / "index", documents(), Counting(embedder, dies_after=0))
    assert not any(tmp_path.iterdir())
