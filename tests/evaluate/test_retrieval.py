from __future__ import annotations

import numpy as np
import pytest
from known_vectors import KnownVectors, Meanings

from kdserve.errors import DataError
from kdserve.evaluate import Document, Query, language_bias, retrieval
from kdserve.evaluate.retrieval import answer_ranks, average_precision

EMBEDDER = KnownVectors(
    {"cats": [1, 0], "Katzen": [1, 0.1], "chats": [1, 0.3], "tax": [0, 1], "Steuer": [0.2, 1], "pets?": [1, 0.08]}
)
DOCUMENTS = [
    Document(id="en1", language="en", text="cats"),
    Document(id="de1", language="de", text="Katzen"),
    Document(id="fr1", language="fr", text="chats"),
    Document(id="en2", language="en", text="tax"),
    Document(id="de2", language="de", text="Steuer"),
]


def query(*answers: str) -> list[Query]:
    return [Query(id="q", language="en", text="pets?", answers=frozenset(answers))]


def test_ranks_answers_in_one_pool():
    # order by cosine: Katzen (0.02 off), cats (0.08), chats (0.22), Steuer, tax
    found = retrieval(EMBEDDER, DOCUMENTS, query("en1", "fr1"))
    assert (found.num_queries, found.num_documents) == (1, 5)
    assert found.accuracy_at_1 == 0.0
    assert found.mrr == 0.5
    assert found.recall_at_10 == 1.0
    assert found.mean_average_precision == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_scope_shows_a_query_only_its_part_of_the_pool():
    own = retrieval(EMBEDDER, DOCUMENTS, query("en1", "de1", "fr1"), scope="monolingual")
    assert (own.accuracy_at_1, own.mean_average_precision) == (1.0, 1.0)
    across = retrieval(EMBEDDER, DOCUMENTS, query("en1", "fr1"), scope="cross-lingual")
    assert (across.accuracy_at_1, across.mrr) == (0.0, 0.5)  # Katzen stands before chats, cats is out of sight


def test_a_tie_counts_against_the_answer():
    same = KnownVectors({"cats": [1, 0], "tax": [1, 0], "pets?": [1, 0]})
    documents = [Document(id=text, language="en", text=text) for text in ("cats", "tax")]
    assert retrieval(same, documents, query("cats")).mrr == 0.5


def test_ranks_agree_with_sorting():
    random = np.random.default_rng(2)
    answers, others = random.random(6).astype(np.float32), random.random(30).astype(np.float32)
    order = np.argsort(-np.concatenate([answers, others]))
    expected = np.flatnonzero(order < 6) + 1
    np.testing.assert_array_equal(answer_ranks(answers, others), expected)
    assert average_precision(np.array([1, 3])) == pytest.approx((1 + 2 / 3) / 2)


def test_refuses_unknown_answers_double_ids_and_empty_scopes():
    with pytest.raises(DataError, match="query 'q' names answer 'en9'"):
        retrieval(EMBEDDER, DOCUMENTS, query("en9"))
    with pytest.raises(DataError, match="document id 'en1' occurs twice"):
        retrieval(EMBEDDER, [*DOCUMENTS, DOCUMENTS[0]], query("en1"))
    with pytest.raises(DataError, match="no query has an answer in the monolingual scope"):
        retrieval(EMBEDDER, DOCUMENTS, query("de1"), scope="monolingual")


PARALLEL = {language: [f"{language}:{number}" for number in range(30)] for language in ("en", "de", "zh")}


def test_an_embedder_blind_to_language_has_no_bias():
    bias = language_bias(Meanings(bias=0.0), PARALLEL)
    assert bias.num_queries == 90
    assert bias.pooled == pytest.approx(1.0)
    assert bias.lost == pytest.approx(0.0)
    assert bias.own_first == 0.0
    assert bias.by_language == pytest.approx({"en": 1.0, "de": 1.0, "zh": 1.0})


def test_an_embedder_that_sees_the_language_first_loses_to_its_own_texts():
    bias = language_bias(Meanings(bias=2.0), PARALLEL)
    assert bias.own_first == 1.0
    assert bias.without_own > 0.5  # it does know the meanings
    assert bias.pooled < 0.15  # but 29 wrong texts of the own language stand before both translations
    assert bias.lost == pytest.approx(bias.without_own - bias.pooled)


def test_language_bias_needs_two_languages_of_one_length():
    with pytest.raises(DataError, match="1 languages"):
        language_bias(Meanings(bias=0), {"en": ["en:1"]})
    with pytest.raises(DataError, match=r"2 languages with \[1, 2\] sentences"):
        language_bias(Meanings(bias=0), {"en": ["en:1"], "de": ["de:1", "de:2"]})
