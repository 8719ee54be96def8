"""An index that lives: whatever one does to it, it answers like one built afresh from the documents that are in it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from trigrams import TrigramEmbedder

from kdserve.errors import DataError, FolderError
from kdserve.locks import folder_lock
from kdserve.search import BuildOptions, Document, NewMetadata, Retriever, best_sentences, describe, verify_index
from kdserve.search.index import changes

EMBEDDER = TrigramEmbedder()
QUERY = "text number 12"


def document(n, text=None):
    return Document(text=text or f"text number {n}", id=f"d{n}", language="en", metadata={"n": n})


@pytest.fixture
def retriever(tmp_path, embedder):
    return Retriever.build(tmp_path / "index", [document(n) for n in range(20)], embedder)


def of_sentences(n):
    return document(n, "It is early. " * (n % 3) + f"Text number {n}")


def ids(hits):
    return [hit.id for hit in hits]


def test_added_documents_are_found_and_the_old_ones_stay(retriever):
    retriever.add([document(20), document(21, "zebra")])
    assert ids(retriever.search("zebra", 1)) == ["d21"]
    assert ids(retriever.search("text number 20", 1)) == ["d20"]
    assert len(retriever) == 22


def test_deleted_documents_are_gone_at_once_and_their_space_after_compacting(retriever):
    retriever.delete(["d3", "d4"])
    assert "d3" not in ids(retriever.search("text number 3", 20))
    before = describe(retriever.folder)
    retriever.compact()
    after = describe(retriever.folder)
    assert (before.documents, before.rows, before.deleted_rows) == (18, 20, 2)
    assert (after.documents, after.rows, after.deleted_rows) == (18, 18, 0)
    assert verify_index(retriever.folder) == 5


def test_an_update_replaces_and_adds(retriever):
    retriever.update([document(3, "giraffe"), document(99, "okapi")])
    assert len(retriever) == 21
    assert [hit.text for hit in retriever.search("giraffe", 1)] == ["giraffe"]
    assert "text number 3" not in [hit.text for hit in retriever.search("text number 3", 21)]


@pytest.mark.parametrize("number", [2**31, 1_732_645_800_000, 2**63 - 1])
def test_any_number_of_64_bits_is_an_id(tmp_path, embedder, number):
    documents = [Document(text="far", id=number), Document(text="near", id=-number)]
    Retriever.build(tmp_path / "index", documents, embedder)
    retriever = Retriever.open(tmp_path / "index", embedder)
    assert {hit.id for hit in retriever.search("far", 2)} == {number, -number}
    if number < 2**63 - 1:
        retriever.add([Document(text="counted")])
        assert retriever.search("counted", 1)[0].id == number + 1
    else:
        with pytest.raises(DataError, match="have come to 9223372036854775807, the last"):
            retriever.add([Document(text="counted")])
        assert len(Retriever.open(tmp_path / "index", embedder).search("far", 9)) == 2


def test_a_deleted_id_can_be_given_again_by_the_user_but_never_by_the_counter(tmp_path, embedder):
    retriever = Retriever.build(tmp_path / "index", [Document(text="a"), Document(text="b")], embedder)
    retriever.delete([1])
    retriever.add([Document(text="c")])
    retriever.delete([2])
    retriever.compact()
    retriever.add([Document(text="d"), Document(text="again", id=1)])
    assert {hit.id: hit.text for hit in retriever.search("a", 9)} == {0: "a", 3: "d", 1: "again"}


def test_an_id_that_is_taken_leaves_the_index_as_it_was(retriever):
    before = describe(retriever.folder)
    with pytest.raises(DataError, match="id 'd7' is in the index already"):
        retriever.add([document(50), document(7)])
    assert describe(retriever.folder) == before
    assert sorted(path.name for path in retriever.folder.iterdir()) == ["gen-000001", "kdserve.json", "writer.lock"]


@pytest.mark.parametrize("id_", [True, 1.5, None, 2**63, -(2**70), "\ud800", b"d1", np.int64(1)])
def test_what_is_no_id_deletes_nothing(retriever, id_):
    with pytest.raises(DataError, match=r"use a str or an int|beyond 64 bits|no valid Unicode"):
        retriever.delete(["d1", id_])
    assert len(retriever) == 20


def test_all_documents_can_be_deleted_and_new_ones_added(retriever):
    retriever.delete([f"d{n}" for n in range(20)])
    assert (len(retriever), retriever.search("text", 5), retriever.search("text", where="n == 3")) == (0, [], [])
    retriever.add([document(3, "giraffe")])
    assert ids(retriever.search("giraffe", 5)) == ["d3"]


def test_new_metadata_leaves_text_and_vector(retriever):
    before = retriever.search("text number 3", 1)[0]
    retriever.update(
        [
            NewMetadata(id="d3", metadata={"year": 2021, "n": None}),
            document(4, "zebra"),
            NewMetadata(id="d5", language="de"),
        ]
    )
    after = retriever.search("text number 3", 1, where="year == 2021")[0]
    assert (after.text, after.score, after.language) == (before.text, before.score, "en")
    assert after.metadata == {"year": 2021}
    assert [hit.metadata for hit in retriever.search("text number 5", 9, where='lang == "de"')] == [{"n": 5}]
    assert (len(retriever), ids(retriever.search("zebra", 1))) == (20, ["d4"])


def test_new_metadata_for_no_document_or_twice_leaves_the_index_as_it_was(retriever):
    for new, message in (
        ([NewMetadata(id="d1", metadata={"a": 1}), NewMetadata(id="d77")], "has no document 'd77'"),
        ([NewMetadata(id="d1", metadata={"a": 1})] * 2, "id 'd1' occurs twice"),
        ([NewMetadata(id="d1", metadata={"a": 1}), document(1)], "id 'd1' occurs twice"),
    ):
        with pytest.raises(DataError, match=message):
            retriever.update(new)
    assert describe(retriever.folder).fields == ("n",)


def test_deleting_what_is_not_there_deletes_nothing(retriever):
    with pytest.raises(DataError, match="has no document 'd77'; nothing was deleted"):
        retriever.delete(["d1", "d77"])
    assert len(retriever) == 20
    with pytest.raises(TypeError, match="put it into a list"):
        retriever.delete("d1")


def test_an_emptied_index_finds_nothing_and_takes_documents_again(retriever):
    retriever.delete([f"d{n}" for n in range(20)])
    assert (len(retriever), retriever.search("text", 5)) == (0, [])
    retriever.compact()
    assert retriever.search("text", 5) == []
    retriever.add([document(1)])
    assert ids(retriever.search("text", 5)) == ["d1"]


def test_a_second_writer_is_refused_while_readers_go_on(retriever, embedder):
    with folder_lock(retriever.folder):
        with pytest.raises(FolderError, match="another process is writing"):
            retriever.add([document(30)])
        assert ids(Retriever.open(retriever.folder, embedder).search("text number 5", 1)) == ["d5"]


def test_a_reader_keeps_its_state_until_it_refreshes(retriever, embedder):
    reader = Retriever.open(retriever.folder, embedder)
    retriever.delete(["d5"])
    retriever.compact()
    assert ids(reader.search("text number 5", 1)) == ["d5"]
    assert reader.refresh()
    assert "d5" not in ids(reader.search("text number 5", 20))
    assert not reader.refresh()


def test_an_index_in_the_place_of_another_is_taken_where_the_encoder_fits_and_left_alone_where_not(tmp_path, embedder):
    folder, other = tmp_path / "index", TrigramEmbedder(seed=1)
    reader = Retriever.build(folder, [document(0)], embedder)
    shutil.rmtree(folder)
    Retriever.build(folder, [document(1)], embedder)
    assert reader.refresh()
    assert ids(reader.search("text number 1", 1)) == ["d1"]
    shutil.rmtree(folder)
    Retriever.build(folder, [document(2)], other)
    for change in (reader.refresh, lambda: reader.delete(["d2"]), reader.compact):
        with pytest.raises(FolderError, match="was built with encoder"):
            change()
    assert ids(reader.search("text number 1", 1)) == ["d1"]
    assert ids(Retriever.open(folder, other).search("text number 2", 1)) == ["d2"]
    assert describe(folder).generation == 1


def test_adding_one_by_one_keeps_few_segments(tmp_path, embedder):
    retriever = Retriever.build(tmp_path / "index", [document(0)], embedder)
    for n in range(1, 40):
        retriever.add([document(n)])
    assert describe(retriever.folder).segments <= 6
    assert ids(retriever.search("text number 17", 1)) == ["d17"]
    assert sum(path.is_dir() for path in retriever.folder.iterdir()) == describe(retriever.folder).segments


def test_a_full_disk_leaves_the_index_as_it_was(retriever, file_size_limit):
    before = describe(retriever.folder)
    many = [document(n) for n in range(100, 2000)]
    with file_size_limit(30_000), pytest.raises(FolderError, match="cannot be written"):
        retriever.add(many)
    assert describe(retriever.folder) == before
    retriever.add(many)
    assert len(retriever) == 1920


class LifeOfAnIndex(RuleBasedStateMachine):
    """Random changes, and after each the same answers as from a plain list of the documents."""

    @initialize(kind=st.sampled_from(["exact", "flat"]), precision=st.sampled_from(["float32", "int8"]))
    def build(self, kind, precision):
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.documents = {f"d{n}": of_sentences(n) for n in range(5)}
        self.next = 5
        options = BuildOptions(kind=kind, precision=precision)
        self.retriever = Retriever.build(
            f"{self.folder.name}/index", self.documents.values(), EMBEDDER, options=options
        )
        self.precision = precision

    @rule(num=st.integers(1, 6))
    def add(self, num):
        made = [of_sentences(n) for n in range(self.next, self.next + num)]
        self.next += num
        self.retriever.add(made)
        self.documents.update((d.id, d) for d in made)

    @rule(data=st.data())
    def delete(self, data):
        if self.documents:
            chosen = data.draw(st.lists(st.sampled_from(sorted(self.documents)), unique=True, min_size=1))
            self.retriever.delete(chosen)
            for id_ in chosen:
                del self.documents[id_]

    @rule(
        data=st.data(),
        text=st.sampled_from(["zebra", "text number 1", "A slow train. It is text number 12. Who knows?"]),
    )
    def update(self, data, text):
        if self.documents:
            chosen = data.draw(st.lists(st.sampled_from(sorted(self.documents)), unique=True, min_size=1))
            made = [document(int(id_[1:]), text) for id_ in chosen]
            self.retriever.update(made)
            for d in made:
                del self.documents[d.id]
                self.documents[d.id] = d

    @rule(data=st.data())
    def change_metadata(self, data):
        if self.documents:
            chosen = data.draw(st.sampled_from(sorted(self.documents)))
            self.retriever.update([NewMetadata(id=chosen, metadata={"n": 0})])
            self.documents[chosen] = self.documents.pop(chosen)

    @rule()
    def compact(self):
        self.retriever.compact()

    @invariant()
    def answers_like_a_fresh_index(self):
        assert len(self.retriever) == len(self.documents)
        hits = self.retriever.search(QUERY, 8, rerank=0)
        if self.documents:
            texts = [d.text for d in self.documents.values()]
            scores = EMBEDDER.encode_document(texts) @ EMBEDDER.encode_query([QUERY])[0]
            order = np.lexsort((np.arange(len(scores)), -np.round(scores, 5)))[:8]
            assert [hit.score for hit in hits] == pytest.approx(scores[order].tolist(), abs=0.02)
            if self.precision == "float32":
                assert ids(hits) == [list(self.documents)[n] for n in order]
            best = best_sentences(QUERY, [replace(hit, sentence=None) for hit in hits], EMBEDDER)
            assert [hit.sentence.score for hit in hits] == pytest.approx([one.score for one in best], abs=0.02)
        else:
            assert hits == []

    def teardown(self):
        self.folder.cleanup()


TestLifeOfAnIndex = LifeOfAnIndex.TestCase
TestLifeOfAnIndex.settings = settings(max_examples=10, stateful_step_count=10, deadline=None)


def test_segments_beyond_the_limit_are_not_rewritten_by_adding(monkeypatch, retriever):
    monkeypatch.setattr(changes, "MERGE_LIMIT_ROWS", 10)
    retriever.add([document(n) for n in range(20, 60)])
    assert describe(retriever.folder).segments == 2
