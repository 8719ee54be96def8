"""Search by words beside meaning, and answers spread over languages."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_passages import LONG, Counting, count_tokens

from kdserve import samples
from kdserve.errors import DataError
from kdserve.search import BuildOptions, Document, Retriever, describe, open_snapshot, verify_index
from kdserve.search.backends import topk
from kdserve.search.backends.topk import true_scores
from kdserve.search.documents.passages import split_text
from kdserve.search.documents.sentences import split_sentences
from kdserve.search.index.document_file import DocumentFile
from kdserve.search.index.lexical import MAX_QUERY_CHARACTERS, fuse, words
from kdserve.search.index.snapshot import Snapshot
from kdserve.search.query import ranking


@pytest.fixture(scope="module")
def documents():
    made = [Document(text=d.text, id=d.id, language=d.lang) for d in samples.documents()]
    made[10] = Document(text=made[10].text + " Siehe Beleg KX-4471/B.", id="code", language="de")
    return made


@pytest.fixture(scope="module")
def retriever(tmp_path_factory, documents, embedder):
    folder = tmp_path_factory.mktemp("asking") / "index"
    return Retriever.build(folder, documents, embedder, options=BuildOptions(lexical=True))


def test_a_code_that_embeddings_miss_is_found_by_its_word(retriever):
    query = "Qui peut me dire où trouver kx-4471 ?"
    assert "code" not in [hit.id for hit in retriever.search(query, 3)]
    assert retriever.search(query, 3, lexical=True)[0].id == "code"


def test_fused_hits_keep_the_scores_of_meaning_and_obey_floor_and_filter(retriever):
    query = "Beleg KX-4471"
    by_meaning = {hit.id: hit.score for hit in retriever.search(query, 100)}
    fused = retriever.search(query, 20, lexical=True)
    assert all(hit.score == by_meaning[hit.id] for hit in fused)
    floor = sorted(hit.score for hit in fused)[10]
    assert all(hit.score >= floor for hit in retriever.search(query, 20, lexical=True, min_score=floor))
    assert {hit.language for hit in retriever.search(query, 20, lexical=True, where='lang == "fr"')} == {"fr"}


def test_a_question_whose_hits_are_ordered_anew_is_embedded_once(tmp_path, documents):
    asked = []

    class Listening(Counting):
        def encode_query(self, texts):
            asked.extend(texts)
            return super().encode_query(texts)

    retriever = Retriever.build(tmp_path / "index", documents, Listening(), options=BuildOptions(sentences=False))
    retriever.search_batch(["bell", "bread"], 3, rerank=5)
    assert asked == ["bell", "bread"]


def test_a_question_that_says_nothing_to_the_encoder_is_asked_by_its_words_alone(tmp_path, documents):
    class Deaf(Counting):
        def encode_query(self, texts):
            return super().encode_query(texts) * np.array([["κώδων" not in text] for text in texts], np.float32)

    retriever = Retriever.build(tmp_path / "index", documents, Deaf(), options=BuildOptions(lexical=True))
    assert retriever.search("κώδων", 3) == []
    assert retriever.search("KX-4471 κώδων", 3, lexical=True)[0].id == "code"
    assert len(retriever.search("bell", 3)) == 3


def test_words_follow_changes(tmp_path, embedder):
    options = BuildOptions(lexical=True)
    retriever = Retriever.build(
        tmp_path / "index", [Document(text=f"text {n}", id=n) for n in range(20)], embedder, options=options
    )
    retriever.add([Document(text="the quokka", id="q"), Document(text="a quokka and a wombat", id="w")])
    assert {hit.id for hit in retriever.search("QUOKKA", 2, lexical=True)} == {"q", "w"}
    retriever.delete(["q"])
    assert "q" not in {hit.id for hit in retriever.search("quokka", 30, lexical=True)}
    retriever.compact()
    assert retriever.search("wombat", 1, lexical=True)[0].id == "w"
    verify_index(retriever.folder)


def test_words_far_behind_in_a_query_are_not_read(tmp_path, embedder):
    documents = [Document(text="a text", id="t"), Document(text="a wombat", id="w")]
    retriever = Retriever.build(tmp_path / "index", documents, embedder, options=BuildOptions(lexical=True))
    snapshot, vector = open_snapshot(retriever.folder), embedder.encode_query(["x"])
    for query, found in (("x " * (MAX_QUERY_CHARACTERS // 2 - 10) + "wombat", [1]), (" " * 90_000 + "wombat", [1]),
                         ("x " * (MAX_QUERY_CHARACTERS // 2) + "wombat", [])):  # fmt: skip
        rows = snapshot.ranked_by_words(query, vector[0], 5, where="").rows[0]
        assert rows[rows >= 0].tolist() == found


def test_an_index_without_words_says_so(tmp_path, documents, embedder):
    retriever = Retriever.build(tmp_path / "index", documents, embedder)
    with pytest.raises(DataError, match="built without words"):
        retriever.search("x", lexical=True)


def test_a_query_of_no_words_still_answers_by_meaning(retriever):
    assert retriever.search("?!", 3, lexical=True) == retriever.search("?!", 3)


def test_a_blank_query_finds_nothing(retriever):
    assert retriever.search(" \n") == retriever.search("\u200e\ufeff\u00ad\u3164") == []
    assert [len(hits) for hits in retriever.search_batch(["", "moon"], 2)] == [0, 2]


def test_words_of_scripts_without_spaces_are_pairs():
    assert words("Ärger in Tokio, 東京都へ ABC-12") == ["ärger", "in", "tokio", "東京", "京都", "都へ", "abc", "12"]
    assert words("ﾊﾞ x") == ["バ", "x"]


def test_fusion_adds_reciprocal_ranks():
    assert fuse([["a", "b", "c"], ["c", "a"]]) == ["a", "c", "b"]
    assert fuse([["x"], ["y"]]) == ["x", "y"]
    assert fuse([]) == []


def test_a_long_document_is_fused_once_by_its_best_passage(tmp_path):
    made = [Document(text=LONG, id="long"), Document(text="a slow night train", id="short")]
    retriever = Retriever.build(tmp_path / "index", made, Counting(), options=BuildOptions(lexical=True))
    query = LONG[300:420]
    assert [hit.id for hit in retriever.search(query, 5, lexical=True)] == ["long", "short"]
    assert retriever.search(query, 1, lexical=True) == retriever.search(query, 1)


@pytest.mark.parametrize("lexical", [False, True])
def test_no_text_is_read_but_of_the_hits_however_deep_languages_lie(tmp_path, embedder, lexical, monkeypatch):
    documents = [Document(text=f"apple {n}", id=n, language="en" if n < 190 else "de") for n in range(200)]
    retriever = Retriever.build(tmp_path / "index", documents, embedder, options=BuildOptions(lexical=True))
    retriever.add([Document(text="apple", id="fr", language="fr"), Document(text="an apple", id="none")])
    read, documents_of = [], DocumentFile.documents
    monkeypatch.setattr(DocumentFile, "documents", lambda self, docs: read.extend(docs) or documents_of(self, docs))
    hits = retriever.search("apple", 10, per_language=1, lexical=lexical)
    assert Counter(hit.language for hit in hits) == Counter(["en", "de", "fr", None])
    assert len(read) <= 4 * 4  # of 10, 40, 160 and all rows


def test_many_rows_are_scored_some_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    stored, queries = rng.normal(size=(50, 8)).astype(np.float32), rng.normal(size=(3, 8)).astype(np.float32)
    rows, gathered = np.tile(np.arange(-1, 50), (3, 1)), []

    class Vectors:
        def gather(self, rows):
            gathered.append(len(rows))
            return stored[rows]

    whole = true_scores(queries, Vectors(), rows)
    monkeypatch.setattr(topk, "GATHER_ROWS", 7)
    assert np.array_equal(true_scores(queries, Vectors(), rows), whole)
    assert max(gathered[1:]) == 7


@pytest.mark.parametrize("per_language", [1, 2, 5])
def test_spread_answers_are_the_best_of_each_language(retriever, per_language):
    everything = retriever.search("the weather in spring", 100)
    seen = Counter()
    expected = []
    for hit in everything:
        seen[hit.language] += 1
        if seen[hit.language] <= per_language:
            expected.append(hit)
    assert retriever.search("the weather in spring", 10, per_language=per_language) == expected[:10]


def test_many_queries_are_spread_some_at_a_time(retriever, monkeypatch):
    queries = [query.text for query in samples.queries()]
    whole = retriever.search_batch(queries, 10, per_language=1)
    held, neighbours = [], Snapshot.neighbours

    def noted(snapshot, vectors, k, **more):
        held.append(len(vectors) * k)
        return neighbours(snapshot, vectors, k, **more)

    monkeypatch.setattr(Snapshot, "neighbours", noted)
    monkeypatch.setattr(ranking, "PROPOSED_AT_ONCE", 500)
    assert retriever.search_batch(queries, 10, per_language=1) == whole
    assert max(held) <= 500 < len(queries) * 40


def test_threads_share_a_retriever(retriever):
    queries = [query.text for query in samples.queries()]
    alone = [
        retriever.search(query, 5, where=f"lang != {n % 7!r}", lexical=n % 2 == 0) for n, query in enumerate(queries)
    ]
    with ThreadPoolExecutor(8) as pool:
        numbered = list(enumerate(queries)) * 4
        ask = lambda pair: retriever.search(pair[1], 5, where=f"lang != {pair[0] % 7!r}", lexical=pair[0] % 2 == 0)  # noqa: E731
        together = list(pool.map(ask, numbered))
    assert together == alone * 4


MANY = [
    Document(text=" ".join(f"{text} {word}." for text in texts), id=word, language=language)
    for word, language, texts in (
        ("apple", "en", [f"Number {n} of the plain words about a train" for n in range(12)]),
        ("bread", "en", ["Warm bread", "Bells ring at noon", *["Nothing here tells of anything at all"] * 9]),
        ("noon", "de", ["The ring is at noon"] * 4 + ["Who knows of anything"] * 4 + ["Bells ring at noon"]),
        ("snow", "de", ["Snow"]),
    )
]
QUESTION = "bells ring at noon"


def best_passages(documents):
    """Each document's best passage by the mean of its score and its best sentence's, the best document first."""
    embedder, best = Counting(), []
    (question,) = embedder.encode_query([QUESTION])

    def scores(texts):
        return embedder.encode_document(texts) @ question

    for document in documents:
        spans = split_text(document.text, count_tokens, Counting.max_tokens)
        passages = [document.text[slice(*span)] for span in spans]
        weighed = [
            (score + scores([text[slice(*own)] for own in split_sentences(text)]).max()) / 2
            for text, score in zip(passages, scores(passages), strict=True)
        ]
        chosen = int(np.argmax(weighed))
        best.append((document.id, spans[chosen] if len(spans) > 1 else None, weighed[chosen]))
    return sorted(best, key=lambda one: -one[2])


@pytest.mark.parametrize("sentences", [True, False])
def test_a_document_is_shown_and_ranks_by_the_passage_that_is_best_with_its_sentences(tmp_path, sentences):
    options = BuildOptions(lexical=True, sentences=sentences)
    retriever = Retriever.build(tmp_path / "index", MANY[:2], Counting(), options=options)
    retriever.add(MANY[2:])
    plain = {hit.id: hit.passage for hit in retriever.search(QUESTION, rerank=0)}
    expected = best_passages(MANY)
    assert {name for name, passage, _ in expected if plain[name] != passage} == {"noon"}
    for more, among in (({}, MANY), ({"lexical": True}, MANY), ({"where": 'lang == "de"'}, MANY[2:])):
        hits = retriever.search(QUESTION, rerank=50, **more)
        expected = best_passages(among)
        found = sorted(hits, key=lambda hit: -hit.score)
        assert [(hit.id, hit.passage) for hit in found] == [(name, passage) for name, passage, _ in expected]
        assert [hit.score for hit in found] == pytest.approx([score for _, _, score in expected], abs=0.01)
        assert retriever.search(QUESTION, 1, rerank=50, **more) == hits[:1]


def test_as_many_documents_are_found_as_were_asked_for_where_one_has_all_passages_near(tmp_path):
    near = Document(text="The bells of the village hall rang at noon. " * 300, id="near")
    retriever = Retriever.build(tmp_path / "index", [near, *MANY], Counting())
    assert describe(retriever.folder).rows > ranking.DEPTH + 10
    assert [hit.id for hit in retriever.search(QUESTION, 5)][-2:] == ["snow", "apple"]
