import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from kdserve import samples
from kdserve.errors import DataError, EncodeError, FolderError
from kdserve.locks import folder_lock
from kdserve.search import (
    BuildOptions,
    Document,
    Requirements,
    Retriever,
    compact_index,
    delete_documents,
    describe,
    open_snapshot,
    verify_index,
)

TEXTS = ["red apples", "green apples", "a slow train", "green apples", "the night train", "zebra"]


def documents():
    return [Document(text=text, id=f"t{n}", language="en", metadata={"n": n}) for n, text in enumerate(TEXTS)]


@pytest.fixture
def retriever(tmp_path, embedder):
    return Retriever.build(tmp_path / "index", documents(), embedder)


def test_best_document_comes_first_with_all_that_belongs_to_it(retriever):
    hit = retriever.search("red apples", 1)[0]
    assert (hit.id, hit.text, hit.language, hit.metadata, hit.passage) == ("t0", "red apples", "en", {"n": 0}, None)
    assert hit.score == pytest.approx(1, abs=1e-6)


def test_a_precision_that_is_none_is_refused_before_anything_is_built():
    with pytest.raises(DataError, match="no precision 'float16' of vectors; choose one of float32, int8"):
        BuildOptions(precision="float16")


def test_an_index_is_named_by_a_text_or_a_path_everywhere(retriever):
    name = str(retriever.folder)
    delete_documents(name, ["t5"])
    assert compact_index(name).num_documents == open_snapshot(name).num_documents == describe(name).documents == 5


def test_equal_texts_come_in_the_order_of_insertion(retriever):
    hits = retriever.search("green apples", 3)
    assert [hit.id for hit in hits] == ["t1", "t3", "t0"]
    assert hits[0].score == hits[1].score


def test_scores_are_inner_products(retriever, embedder):
    query = embedder.encode_query(["train"])[0]
    by_id = {f"t{n}": float(vector @ query) for n, vector in enumerate(embedder.encode_document(TEXTS))}
    hits = retriever.search("train", 6)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(by_id, abs=1e-6)


def test_more_hits_than_documents_gives_all(retriever):
    assert len(retriever.search("apples", 100)) == len(retriever) == 6


def test_min_score_cuts_the_tail(retriever):
    all_hits = retriever.search("apples", 6)
    floor = all_hits[2].score
    assert retriever.search("apples", 6, min_score=floor) == all_hits[:3]
    assert retriever.search("apples", 6, min_score=1.5) == []
    assert retriever.search("apples", 6, min_score=1e300) == []
    assert retriever.search("apples", 6, min_score=-1e300) == all_hits


def test_a_batch_answers_like_single_queries(retriever):
    queries = ["apples", "night", "zebra stripes"]
    assert retriever.search_batch(queries, 4) == [retriever.search(query, 4) for query in queries]
    assert retriever.search_batch([], 4) == []


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_numpy_and_faiss_agree_on_ids_and_scores(tmp_path, embedder, precision):
    made = [Document(text=d.text, id=d.id, language=d.lang) for d in samples.documents()]
    made += [Document(text=text, language=language) for language, some in samples.parallel().items() for text in some]
    built = {
        kind: Retriever.build(tmp_path / kind, made, embedder, options=BuildOptions(kind=kind, precision=precision))
        for kind in ("exact", "flat")
    }
    queries = [query.text for query in samples.queries()]
    assert built["exact"].search_batch(queries, 10) == built["flat"].search_batch(queries, 10)


def test_int8_vectors_take_a_quarter_and_rank_nearly_alike(tmp_path, embedder):
    texts = [Document(text=text) for text in samples.parallel()["de"]]
    small = Retriever.build(tmp_path / "small", texts, embedder, options=BuildOptions(precision="int8"))
    large = Retriever.build(tmp_path / "large", texts, embedder)
    size = {name: (tmp_path / name / "gen-000001" / "vectors.bin").stat().st_size for name in ("small", "large")}
    assert size == {"small": 320 * (64 + 4), "large": 320 * 64 * 4}
    for hits, true_hits in zip(
        small.search_batch(["Das Wetter", "Brot"], 5), large.search_batch(["Das Wetter", "Brot"], 5), strict=True
    ):
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in true_hits], abs=0.01)


def test_documents_without_id_are_counted_past_the_users_own_numbers(tmp_path, embedder):
    mixed = [Document(text="one"), Document(text="two", id=7), Document(text="three"), Document(text="four", id="7")]
    retriever = Retriever.build(tmp_path / "index", mixed, embedder)
    assert {hit.text: hit.id for hit in retriever.search("one", 4)} == {"one": 0, "two": 7, "three": 8, "four": "7"}


def test_opening_with_another_encoder_is_refused(retriever, embedder):
    other = type(embedder)(seed=1)
    with pytest.raises(FolderError, match=f"built with encoder {embedder.fingerprint[:12]}, this one is"):
        Retriever.open(retriever.folder, other)


def test_an_existing_folder_is_left_alone(retriever, embedder):
    with pytest.raises(FolderError, match="exists already"):
        Retriever.build(retriever.folder, documents(), embedder)
    assert len(Retriever.open(retriever.folder, embedder)) == 6


def test_two_documents_with_one_id_leave_nothing_behind(tmp_path, embedder):
    with pytest.raises(DataError, match="id 'a' occurs twice"):
        Retriever.build(tmp_path / "index", [Document(text="x1", id="a"), Document(text="x2", id="a")], embedder)
    assert not any(tmp_path.iterdir())


def test_no_documents_is_an_error_that_leaves_nothing_behind(tmp_path, embedder):
    with pytest.raises(DataError, match="no texts to index; give at least one"):
        Retriever.build(tmp_path / "index", [], embedder)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("broken", [np.nan, np.inf, 2.0])
def test_vectors_that_are_no_unit_vectors_are_refused(tmp_path, embedder, broken):
    class Broken(type(embedder)):
        def encode_document(self, texts):
            vectors = self.encode_query(texts)
            vectors[2, 0] = broken
            return vectors

    with pytest.raises(EncodeError, match="for text 2 of its batch, not 1"):
        Retriever.build(tmp_path / "index", documents(), Broken())
    assert not any(tmp_path.iterdir())


def test_a_zero_vector_is_kept_and_matches_nothing(tmp_path, embedder):
    class Blank(type(embedder)):
        def encode_document(self, texts):
            vectors = self.encode_query(texts)
            vectors[1] = 0
            return vectors

    retriever = Retriever.build(tmp_path / "index", documents(), Blank(), options=BuildOptions(precision="int8"))
    assert [hit.score for hit in retriever.search("green apples", 6) if hit.id == "t1"] == [0.0]


def test_a_pickled_retriever_is_opened_again(retriever):
    for again in (pickle.loads(pickle.dumps(retriever)), copy.deepcopy(retriever)):
        assert again.search("red apples", 3) == retriever.search("red apples", 3)


def test_what_is_no_encoder_and_what_are_no_vectors_are_told(retriever, embedder, tmp_path):
    with pytest.raises(TypeError, match=r"got str for an encoder; open one: Encoder\.load"):
        Retriever.open(retriever.folder, "kdserve-static")
    with pytest.raises(TypeError, match="got NoneType for an encoder"):
        Retriever.build(tmp_path / "other", documents(), None)
    vectors = embedder.encode_query(["red apples"])
    assert retriever.search_vectors(vectors.tolist(), 2).rows.tolist() == [[0, 1]]
    for wrong in (vectors[0], vectors[:, 1:], np.full_like(vectors, np.nan)):
        with pytest.raises(DataError, match="give finite numbers, a row of 64 for each query"):
            retriever.search_vectors(wrong, 2)


def test_metadata_and_requirements_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="has list for metadata; give a mapping"):
        Document(text="a", metadata=["red"])
    for wrong in ({"recall": 2.0}, {"recall": float("nan")}, {"memory_bytes": -1}):
        with pytest.raises(DataError, match="cannot be; a recall lies between 0 and 1"):
            Requirements(**wrong)


def test_k_below_one_and_a_bare_str_are_errors(retriever):
    with pytest.raises(DataError, match="k is 0"):
        retriever.search("x", 0)
    with pytest.raises(TypeError, match="put it into a list"):
        retriever.search_batch("apples")


def test_exact_opening_gives_the_same_hits_as_faiss(tmp_path, embedder):
    flat = Retriever.build(tmp_path / "index", documents(), embedder, options=BuildOptions(kind="flat"))
    assert Retriever.open(flat.folder, embedder, exact=True).search("train", 6) == flat.search("train", 6)


def test_the_same_documents_make_byte_identical_indexes(tmp_path, embedder):
    def content(folder: Path):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    for name in "ab":
        Retriever.build(tmp_path / name, documents(), embedder)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_info_says_what_the_index_holds(retriever, embedder):
    info = describe(retriever.folder)
    assert (info.documents, info.rows, info.dim, info.kind, info.fields) == (6, 6, 64, "exact", ("n",))
    assert info.encoder == embedder.fingerprint
    assert verify_index(retriever.folder) == 5


def test_a_second_build_of_the_same_target_waits_for_nobody(tmp_path, embedder):
    (tmp_path / ".index.partial").mkdir()
    with folder_lock(tmp_path / ".index.partial"), pytest.raises(FolderError, match="another process is writing"):
        Retriever.build(tmp_path / "index", documents(), embedder)


def test_index_is_readable_by_others(retriever):
    umask = os.umask(0)
    os.umask(umask)
    assert retriever.folder.stat().st_mode & 0o777 == 0o777 & ~umask
