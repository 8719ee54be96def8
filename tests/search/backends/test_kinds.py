"""Approximate kinds: as good as asked, filtered exactly, and explained."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from trigrams import TrigramEmbedder

from kdserve import samples
from kdserve.datatypes import no_progress
from kdserve.errors import DataError, FidelityError
from kdserve.search import BuildOptions, Document, Requirements, Retriever, describe, verify_index
from kdserve.search.backends import faiss, vectors
from kdserve.search.backends.kinds import APPROXIMATE, KINDS, KINDS_HELP, IndexKind, KindOrAuto, num_lists
from kdserve.search.index import snapshot

NAMES = [kind.name for kind in APPROXIMATE]
QUERIES = ["Das Wetter ist heute schön", "I lost my keys", "Où est la gare ?", "libro", "mañana"]


@pytest.fixture(scope="module")
def documents():
    return [
        Document(text=text, language=language, metadata={"n": n})
        for language, texts in samples.parallel().items()
        for n, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def truth(tmp_path_factory, documents, embedder):
    return Retriever.build(tmp_path_factory.mktemp("truth") / "index", documents, embedder)


@pytest.fixture(scope="module", params=NAMES)
def approximate(request, tmp_path_factory, documents, embedder):
    folder = tmp_path_factory.mktemp("kinds") / "index"
    return Retriever.build(folder, documents, embedder, options=BuildOptions(kind=request.param, recall=0.95))


def test_recall_is_measured_and_reached(approximate, truth):
    info = describe(approximate.folder)
    assert info.tuning.recall >= 0.95
    assert info.tuning.num_queries == 512
    queries = [query.text for query in samples.queries()]
    found = [{hit.id for hit in hits} for hits in approximate.search_batch(queries, 10)]
    right = [{hit.id for hit in hits} for hits in truth.search_batch(queries, 10)]
    recalls = [len(ours & best) / 10 for ours, best in zip(found, right, strict=True)]
    assert np.mean(recalls) >= 0.85  # vectors of trigrams are stranger than those of sentences


def test_scores_are_those_of_the_stored_vectors(approximate, truth):
    right = {hit.id: hit.score for hit in truth.search(QUERIES[1], 4000)}
    for hit in approximate.search(QUERIES[1], 10):
        assert hit.score == pytest.approx(right[hit.id], abs=1e-6)


@pytest.mark.parametrize("threshold", [50_000, 0])
def test_filters_let_nothing_else_pass_and_leave_nothing_out(approximate, truth, monkeypatch, threshold):
    monkeypatch.setattr(snapshot, "FILTERED_EXACT_ROWS", threshold)
    for where in ('lang == "ja"', "n < 3", 'n == 7 and lang in ["de", "fr"]'):
        found = approximate.search(QUERIES[1], 30, where=where)
        right = truth.search(QUERIES[1], 30, where=where)
        assert len(found) == len(right)
        if threshold:
            assert found == right
        else:
            assert {hit.id for hit in found} <= {hit.id for hit in truth.search(QUERIES[1], 4000, where=where)}


def test_a_mapped_file_answers_like_one_that_was_read(approximate, embedder, monkeypatch):
    monkeypatch.setattr(faiss, "MAPPED_BYTES", 0)
    mapped = Retriever.open(approximate.folder, embedder)
    assert mapped.search_batch(QUERIES, 10) == approximate.search_batch(QUERIES, 10)


def test_as_many_hits_as_asked_for(approximate):
    assert [len(hits) for hits in approximate.search_batch(QUERIES, 3840)] == [3840] * 5


def test_added_and_deleted_documents_count_at_once_and_compacting_makes_the_kind_anew(tmp_path, documents, embedder):
    retriever = Retriever.build(tmp_path / "index", documents[:600], embedder, options=BuildOptions(kind="ivf-sq8"))
    retriever.add([Document(text="zebra crossing", id="z")])
    assert retriever.search("zebra crossing", 1)[0].id == "z"
    retriever.delete([3, 4])
    assert not {3, 4} & {hit.id for hit in retriever.search(documents[3].text, 20)}
    before = describe(retriever.folder)
    retriever.compact()
    after = describe(retriever.folder)
    assert (before.segments, before.documents, after.segments, after.documents) == (2, 599, 1, 599)
    assert (after.kind, after.tuning.num_queries) == ("ivf-sq8", 512)
    assert verify_index(retriever.folder) == 6


def test_a_compacted_index_can_become_another_kind(tmp_path, documents, embedder):
    retriever = Retriever.build(tmp_path / "index", documents[:600], embedder)
    assert (describe(retriever.folder).kind, describe(retriever.folder).tuning) == ("exact", None)
    right = retriever.search("apple", 5)
    retriever.compact(requirements=Requirements(kind="hnsw", recall=0.99))
    assert describe(retriever.folder).kind == "hnsw"
    assert Retriever.open(retriever.folder, embedder, exact=True).search("apple", 5) == right


def test_memory_chooses_the_first_kind_that_fits(tmp_path, documents, embedder):
    num_rows, dim = 600, 64
    for memory, kind in (("flat", "flat"), ("ivf-sq8", "ivf-pq"), ("ivf-pq", "ivf-pq")):
        options = BuildOptions(memory_bytes=KINDS[memory].estimated_bytes(dim, num_rows), recall=0.5)
        retriever = Retriever.build(tmp_path / memory, documents[:num_rows], embedder, options=options)
        assert describe(retriever.folder).kind == kind


def test_too_little_memory_is_an_error_that_says_how_much_it_takes(tmp_path, documents, embedder):
    with pytest.raises(DataError, match=r"600 vectors of width 64 do not fit into 0.0 MB; the smallest kind, ivf-pq"):
        Retriever.build(tmp_path / "index", documents[:600], embedder, options=BuildOptions(memory_bytes=1000))
    assert not any(tmp_path.iterdir())


def test_a_recall_that_is_not_reached_names_the_best_and_keeps_the_work(tmp_path, documents, monkeypatch):
    class Counting(TrigramEmbedder):
        num_texts = 0

        def encode_document(self, texts):
            self.num_texts += len(texts)
            return self.encode_query(texts)

    counting = Counting()
    monkeypatch.setattr("kdserve.search.index.tuning.USUAL_RECALL", 1.01)
    options = BuildOptions(kind="ivf-pq", resume_key="these")
    with pytest.raises(FidelityError, match=r"recall 1.01 was not reached, the best is 1.000 by ivf-pq"):
        Retriever.build(tmp_path / "index", documents[:600], counting, options=options)
    again = BuildOptions(kind="ivf-pq", recall=0.9, resume_key="these")
    Retriever.build(tmp_path / "index", documents[:600], counting, options=again)
    assert counting.num_texts == 600


def test_size_alone_chooses_numpy_then_faiss_then_a_graph(tmp_path, documents, embedder, monkeypatch):
    monkeypatch.setattr("kdserve.search.index.tuning.EXACT_ROWS", 10)
    monkeypatch.setattr("kdserve.search.index.tuning.FLAT_ROWS", 100)
    for num_rows, kind in ((10, "exact"), (100, "flat"), (300, "ivf-pq")):
        retriever = Retriever.build(tmp_path / kind, documents[:num_rows], embedder)
        assert describe(retriever.folder).kind == kind
        assert str(num_rows) in describe(retriever.folder).reason


def test_kinds_that_were_tried_in_vain_leave_no_file(tmp_path, documents, embedder, monkeypatch):
    for limit, value in (("EXACT_ROWS", 10), ("FLAT_ROWS", 100), ("USUAL_RECALL", 1.01)):
        monkeypatch.setattr(f"kdserve.search.index.tuning.{limit}", value)
    retriever = Retriever.build(tmp_path / "index", documents[:300], embedder)
    assert describe(retriever.folder).kind == "flat"
    assert not list(retriever.folder.rglob("*.faiss"))


def test_estimated_bytes_are_near_the_truth(approximate):
    info = describe(approximate.folder)
    assert info.tuning.memory_bytes == pytest.approx(KINDS[info.kind].estimated_bytes(64, 3840), rel=0.25)


@pytest.mark.parametrize("kind", NAMES)
def test_wide_vectors_are_read_within_the_limits_of_their_file(kind, tmp_path):
    wide = TrigramEmbedder(dim=384)
    texts = [Document(text=f"text number {n} of {n % 97} kinds") for n in range(1500)]
    Retriever.build(tmp_path / "index", texts, wide, options=BuildOptions(kind=kind, recall=0.5))
    assert Retriever.open(tmp_path / "index", wide).search("text number 7 of 7 kinds", 1)[0].id == 7


def test_one_record_is_all_that_a_further_kind_takes(tmp_path):
    rows = np.random.default_rng(0).normal(size=(800, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    (tmp_path / "vectors").write_bytes(vectors.encode_rows(rows, "float32").tobytes())
    vectors.write_sums(tmp_path / "vectors", tmp_path / "sums", 4 * 64)
    stored = vectors.VectorFile(
        tmp_path / "vectors", tmp_path / "sums", precision="float32", dim=64, num_rows=len(rows)
    )
    halves = replace(
        KINDS["ivf-sq8"], name="ivf-sq4", factory="IVF{lists},SQ4", row_bytes=lambda dim: dim // 2 + 8, candidates=(4,)
    )
    faiss.write_approximate(tmp_path / "faiss", stored, halves, progress=no_progress)
    searcher = faiss.ApproximateSearcher(tmp_path / "faiss", stored, kind=halves, effort=16, candidates=4)
    _, found = searcher.propose(rows[:50], 1, None)
    assert found[:, 0].tolist() == list(range(50))
    size_bytes = (tmp_path / "faiss").stat().st_size
    assert size_bytes == pytest.approx(halves.estimated_bytes(64, len(rows)), rel=0.25)


def test_every_kind_is_recorded_and_offered():
    assert tuple(KINDS) == get_args(IndexKind)
    assert get_args(KindOrAuto) == ("auto", *KINDS)
    for kind in KINDS.values():
        assert f"{kind.name}: {kind.summary}" in KINDS_HELP


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match="no kind of index 'hnws'; choose one of auto, exact, flat, ivf-pq, hnsw"):
        Requirements(kind="hnws")


def test_lists_and_factories():
    assert [num_lists(n) for n in (1, 100, 1000, 1_000_000)] == [1, 2, 16, 4096]
    assert KINDS["ivf-pq"].factory_string(384, 1_000_000) == "IVF4096,PQ96x4fs"
    assert KINDS["ivf-pq"].factory_string(7, 10) == "IVF1,PQ7x4fs"
