from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from known_vectors import KnownVectors

from kdserve.errors import DataError
from kdserve.evaluate import StsPair, cross_lingual, evaluate_sts, spearman, sts_spearman


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-3, 3)), min_size=3, max_size=40))
def test_spearman_agrees_with_scipy_ties_included(pairs):
    scipy_stats = pytest.importorskip("scipy.stats")
    first, second = (np.array(side, float) for side in zip(*pairs, strict=True))
    assume(len(set(first)) > 1 and len(set(second)) > 1)
    assert spearman(first, second) == pytest.approx(scipy_stats.spearmanr(first, second).statistic, abs=1e-12)


def test_spearman_of_a_constant_is_zero():
    assert spearman([1, 1, 1], [1, 2, 3]) == 0.0


def test_sts_follows_the_order_that_people_gave():
    embedder = KnownVectors({"cat": [1, 0], "kitten": [1, 0.2], "dog": [1, 1], "tax": [0, 1]})
    pairs = [
        StsPair(first="cat", second="kitten", score=4.8),
        StsPair(first="cat", second="dog", score=2.5),
        StsPair(first="cat", second="tax", score=0.0),
    ]
    assert sts_spearman(embedder, pairs) == pytest.approx(1.0)
    reverse = [StsPair(first=p.first, second=p.second, score=-p.score) for p in pairs]
    assert sts_spearman(embedder, reverse) == pytest.approx(-1.0)


def test_cross_lingual_pairs_take_one_side_of_each():
    english = [StsPair(first="a cat", second="a dog", score=2.0)]
    german = [StsPair(first="eine Katze", second="ein Hund", score=2.0)]
    assert cross_lingual(english, german) == [StsPair(first="a cat", second="ein Hund", score=2.0)]


def test_cross_lingual_refuses_rows_that_are_not_the_same_pairs():
    one = [StsPair(first="a", second="b", score=2.0)]
    with pytest.raises(DataError, match=r"row 1 is scored 2.0 in one language, 3.0 in the other"):
        cross_lingual(one, [StsPair(first="a", second="b", score=3.0)])
    with pytest.raises(DataError, match="1 pairs of one language stand against 2"):
        cross_lingual(one, one * 2)


def test_scores_that_are_all_the_same_order_no_pairs():
    same = [StsPair(first=text, second="a", score=2.0) for text in ("a", "b", "c")]
    with pytest.raises(DataError, match="3 sentence pairs have no order; give at least 2 with different scores"):
        sts_spearman(KnownVectors({"a": [1, 0], "b": [1, 1], "c": [0, 1]}), same)


def test_what_no_similarity_can_be_measured_of_is_named():
    embedder = KnownVectors({"a": [1, 0], "b": [1, 1]})
    english = [StsPair(first="a", second="b", score=score) for score in (1.0, 2.0)]
    with pytest.raises(DataError, match="similarity in fr: 1 sentence pairs have no order"):
        evaluate_sts(embedder, {"en": english, "fr": english[:1]})
    with pytest.raises(DataError, match="similarity in de: 2 pairs of one language stand against 3 of the other"):
        evaluate_sts(embedder, {"en": english, "de": [*english, english[0]]})


def test_languages_that_were_not_asked_for_have_no_figure():
    embedder = KnownVectors({"a": [1, 0], "b": [1, 1]})
    pairs = [StsPair(first="a", second=second, score=score) for second, score in (("a", 5.0), ("b", 1.0))]
    within, across = evaluate_sts(embedder, {"de": pairs, "en": pairs}, languages=["de"])
    assert within.figures == {"de": pytest.approx(1.0)}
    assert across.figures == {"de": pytest.approx(1.0)}


def test_one_pair_has_no_order():
    with pytest.raises(DataError, match="give at least 2"):
        sts_spearman(KnownVectors({"a": [1, 0]}), [StsPair(first="a", second="a", score=1)])
