from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdserve.distill.data.corpus import Corpus, build_corpus
from kdserve.distill.data.partners import Partners, join_texts
from kdserve.distill.data.sampling import make_sampler
from kdserve.distill.data.tokens import TokenStore


@pytest.fixture
def corpus(tmp_path: Path, tiny_recipe) -> Corpus:
    return build_corpus(tiny_recipe("static"), tmp_path / "corpus")


def test_a_partner_says_the_same_and_is_another_text(corpus: Corpus):
    partners, rng = Partners(corpus), np.random.default_rng(0)
    texts = np.arange(len(corpus.source_of) + len(corpus.sources))
    drawn = np.stack([partners.draw(texts, rng) for _ in range(30)])
    assert (corpus.sources_of(drawn.ravel()).reshape(drawn.shape) == corpus.sources_of(texts)).all()
    assert (drawn != texts).all()
    for text in texts[::37]:  # English, German and Japanese: two others each
        assert len(set(drawn[:, text])) == 2


def test_a_batch_of_partners_is_alike_in_the_longer_of_the_two(corpus: Corpus, tiny_recipe):
    texts = len(corpus.source_of) + len(corpus.sources)
    lengths = np.random.default_rng(0).integers(1, 60, texts).astype(np.int32)
    recipe = tiny_recipe("static", overrides=["train.batch_size=20"])
    drawn = make_sampler(corpus, lengths, recipe.train, seed=1, partners=Partners(corpus)).batches(start=0)
    batches = [next(drawn).reshape(2, -1) for _ in range(64)]
    assert all(batch.shape == (2, 10) for batch in batches)
    for ours, theirs in batches:
        assert (corpus.sources_of(ours) == corpus.sources_of(theirs)).all()
    spread = [np.ptp(lengths[batch].max(axis=0)) for batch in batches]
    assert np.median(spread) <= 2


def test_joined_texts_are_of_one_language_fit_and_have_the_sources_as_their_partner(corpus: Corpus):
    num_pairs = len(corpus.source_of)
    lengths = np.random.default_rng(0).integers(2, 9, num_pairs + len(corpus.sources)).astype(np.int32)
    rng = np.random.default_rng(1)
    texts = rng.permutation(len(lengths))[:60]
    joined = join_texts(np.stack([texts, texts]), corpus, lengths, most=40, rng=rng)
    assert joined is not None
    numbers, counts = joined
    assert counts.sum() == len(numbers) == 120
    half = len(counts) // 2
    assert (counts[:half] == counts[half:]).all()
    assert counts.max() > 1
    assert sorted(numbers[:60]) == sorted(texts)
    assert (corpus.sources_of(numbers[:60]) == corpus.sources_of(numbers[60:])).all()
    assert (numbers[60:] >= num_pairs).all()
    for passage in np.split(numbers, np.cumsum(counts)[:-1]):
        assert len(set(corpus.languages_of(passage))) == 1
        assert lengths[passage].sum() <= 40


def test_texts_of_which_no_two_fit_are_not_joined(corpus: Corpus):
    lengths = np.full(len(corpus.source_of) + len(corpus.sources), 21, dtype=np.int32)
    texts = np.arange(10)
    assert join_texts(np.stack([texts, texts]), corpus, lengths, most=41, rng=np.random.default_rng(0)) is None


def test_joined_texts_stand_one_behind_the_other_between_the_edges():
    tokens = TokenStore(ids=np.arange(10, 17, dtype=np.int32), offsets=np.array([0, 2, 3, 7]), prompts=((8,), (9, 9)))
    ids, mask = tokens.padded(
        np.array([2, 0, 1]), wrap=True, queries_B=np.array([False, True]), joined_B=np.array([2, 1])
    )
    edge, end = int(ids[0, 0]), int(ids[1, 4])
    assert ids.tolist() == [[edge, 8, 13, 14, 15, 16, 10, 11, end], [edge, 9, 9, 12, end, 0, 0, 0, 0]]
    assert mask.sum(dim=1).tolist() == [9, 5]
