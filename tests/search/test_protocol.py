"""What holds for every retriever, wherever its documents are kept."""

import pytest
from test_passages import LONG, Counting

from kdserve.errors import DataError
from kdserve.search import Document, NewMetadata, Retriever, best_sentences
from kdserve.search.query.answers import rerank

pytestmark = pytest.mark.filterwarnings("ignore")  # Milvus Lite's own


def documents():
    languages = {"a red apple": "en", "a green apple": "en", "une pomme rouge": "fr", "ein roter Apfel": "de"}
    made = [
        Document(text=text, id=f"t{n}", language=language, metadata={"n": n})
        for n, (text, language) in enumerate(languages.items())
    ]
    return [*made, Document(text=LONG, id="long")]


@pytest.fixture(params=["folder", "milvus"])
def retriever(request, tmp_path):
    if request.param == "folder":
        yield Retriever.build(tmp_path / "index", documents(), Counting())
        return
    pytest.importorskip("pymilvus", reason="pymilvus is not installed: make cluster")
    pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed: make cluster")
    from kdserve.search.milvus import MilvusRetriever

    milvus = MilvusRetriever.build(str(tmp_path / "milvus.db"), "documents", documents(), Counting())
    yield milvus
    milvus.close()


def ids(hits):
    return [hit.id for hit in hits]


def test_the_best_come_first_with_all_that_belongs_to_them(retriever):
    hits = retriever.search("a red apple", 3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    best = hits[0]
    assert (best.id, best.text, best.language, dict(best.metadata)) == ("t0", "a red apple", "en", {"n": 0})
    assert (best.score, best.passage) == (pytest.approx(1, abs=1e-5), None)
    (passage,) = retriever.search(LONG[300:420], 1)
    assert (passage.id, passage.text) == ("long", LONG[slice(*passage.passage)])


def test_a_batch_answers_like_single_queries_and_a_blank_one_finds_nothing(retriever):
    queries = ["apple", " ", "pomme"]
    answers = retriever.search_batch(iter(queries), 2)
    assert [ids(hits) for hits in answers] == [ids(retriever.search(query, 2)) for query in queries]
    assert [len(hits) for hits in answers] == [2, 0, 2]
    assert retriever.search_batch([]) == []


def test_what_was_asked_for_limits_the_hits(retriever):
    assert len(retriever.search("apple", 99)) == len(retriever) == 5
    assert set(ids(retriever.search("apple", where="n < 2"))) == {"t0", "t1"}
    assert sorted(hit.language or "" for hit in retriever.search("apple", per_language=1)) == ["", "de", "en", "fr"]
    assert ids(retriever.search("a red apple", min_score=0.999)) == ["t0"]


def test_hits_ordered_anew_are_those_of_more_passages(retriever):
    query = LONG[300:420]
    plain, anew = retriever.search(query, 5, rerank=0), retriever.search(query, 2, rerank=5)
    assert ids(anew) == ids(rerank(best_sentences(query, plain, retriever.encoder)))[:2]
    assert [hit.score for hit in anew] != [hit.score for hit in plain[:2]]
    assert retriever.search_batch([" ", query], 2, rerank=1)[0] == []
    assert len(retriever.search(query, 3, rerank=1)) == 3
    with pytest.raises(DataError, match="rerank is -1"):
        retriever.search(query, rerank=-1)


def test_documents_come_change_and_go(retriever):
    retriever.add([Document(text="a zebra", id="z"), Document(text="counted")])
    assert len(retriever) == 7
    retriever.update([Document(text="an okapi", id="z"), Document(text="a giraffe", id="g")])
    assert [hit.text for hit in retriever.search("an okapi", 1)] == ["an okapi"]
    assert len(retriever) == 8
    retriever.delete(id_ for id_ in ["z", "g"])
    assert len(retriever) == 6
    assert not {"z", "g"} & set(ids(retriever.search("an okapi", 9)))


def test_metadata_changes_without_the_text(retriever):
    retriever.update([NewMetadata(id="long", language="en", metadata={"n": 7, "tags": ["a", "b"]})])
    retriever.update([NewMetadata(id="t0", metadata={"n": None}), Document(text="a zebra", id="t1")])
    long = retriever.search(LONG[300:420], 1, where="n == 7")[0]
    assert (long.id, long.language, dict(long.metadata)) == ("long", "en", {"n": 7, "tags": ["a", "b"]})
    assert dict(retriever.search("a red apple", 1)[0].metadata) == {}
    assert retriever.search("a zebra", 1)[0].id == "t1"
    assert len(retriever) == 5


def test_it_knows_which_texts_it_has(retriever):
    retriever.add([Document(text="counted")])
    assert retriever.texts_among(text for text in ["counted", LONG, "a red", "not there"]) == {"counted", LONG}
    assert retriever.texts_among([*map(str, range(40_000)), "counted"]) == {"counted"}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda it: it.search("apple", 0), DataError),
        (lambda it: it.search("apple", min_score=float("nan")), DataError),
        (lambda it: it.search("apple", where="n <"), DataError),
        (lambda it: it.search_batch("apple"), TypeError),
        (lambda it: it.add([]), DataError),
        (lambda it: it.add([Document(text="again", id="t0")]), DataError),
        (lambda it: it.update([]), DataError),
        (lambda it: it.update([NewMetadata(id="nowhere", metadata={"n": 1})]), DataError),
        (lambda it: it.update([NewMetadata(id="t0"), NewMetadata(id="t0")]), DataError),
        (lambda it: it.delete(["t0", "nowhere"]), DataError),
        (lambda it: it.delete("t0"), TypeError),
        (lambda it: it.add(["a text"]), TypeError),
        (lambda it: it.update([{"text": "a text"}]), TypeError),
        (lambda it: it.add([NewMetadata(id="t0", metadata={"n": 1})]), TypeError),
        (lambda it: it.texts_among("apple"), TypeError),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(retriever, wrong, error):
    before = ids(retriever.search("apple", 9))
    with pytest.raises(error):
        wrong(retriever)
    assert ids(retriever.search("apple", 9)) == before
