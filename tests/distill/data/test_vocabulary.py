from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kdserve import samples
from kdserve.distill.data.corpus import build_corpus
from kdserve.distill.data.vocabulary import (
    CLS,
    SEP,
    SPECIAL_TOKENS,
    UNK,
    draw_sentences,
    make_vocabulary,
    measure_coverage,
    train_unigram,
)
from kdserve.errors import DataError, FolderError


@pytest.fixture(scope="module")
def texts() -> list[str]:
    parallel = samples.parallel()
    return parallel["en"] + parallel["de"] + parallel["ru"]


def test_every_text_survives_a_round_trip_and_nothing_is_unknown(texts: list[str]):
    tokenizer = train_unigram(texts, 1200)
    assert tokenizer.get_vocab_size() == 1200
    for text in ["Der Zug kommt um 9:45 Uhr.", "新しい電車 🚆", "ﬁne  spaces"]:
        encoding = tokenizer.encode(text)
        assert encoding.ids[0] == CLS
        assert encoding.ids[-1] == SEP
        assert UNK not in encoding.ids
    assert tokenizer.decode(tokenizer.encode("Der Zug, 45!").ids) == "der zug , 4 5 !"
    assert tokenizer.decode(tokenizer.encode("電車").ids) == "電車"
    assert tokenizer.encode("12").ids[1:-1] == tokenizer.encode("1 2").ids[1:-1]


def test_a_frequent_word_is_one_token_even_where_no_other_word_begins_with_it(texts: list[str]):
    vocabulary = train_unigram(texts, 1200).get_vocab()
    counts = Counter(word.strip(".,?!") for text in texts for word in text.lower().split())
    frequent = [word for word, count in counts.items() if count >= 15 and word.isalpha()]
    assert {"have", "ich", "this"} <= set(frequent)
    assert [word for word in frequent if f"▁{word}" not in vocabulary] == []


def test_coverage_tells_a_language_that_the_vocabulary_was_made_for(texts: list[str]):
    parallel = samples.parallel()
    tokenizer = train_unigram(texts, 1200)
    coverage = measure_coverage(tokenizer, {"de": parallel["de"], "ja": parallel["ja"], "xx": []})
    assert set(coverage) == {"de", "ja"}
    assert coverage["de"].byte_share == 0
    assert coverage["de"].tokens_per_word < 3.5
    assert coverage["ja"].byte_share > 0.8


def test_a_vocabulary_larger_than_the_texts_allow_is_refused(texts: list[str]):
    with pytest.raises(DataError, match=r"hold only \d+ tokens, not 90000; set vocabulary.source_size to \d+ or less"):
        train_unigram(texts, 90_000, key="vocabulary.source_size")
    with pytest.raises(DataError, match=r"hold only \d+ tokens, not 9000; give more texts$"):
        train_unigram(["a small text", "another small text"] * 5, 9000)


def test_sentences_are_drawn_by_temperature(tmp_path: Path, tiny_recipe):
    recipe = tiny_recipe("static", overrides=["vocabulary.sentences=100", "vocabulary.source_share=0.1"])
    corpus = build_corpus(recipe, tmp_path / "corpus")
    drawn = draw_sentences(corpus, recipe.vocabulary, seed=1)
    assert drawn == draw_sentences(corpus, recipe.vocabulary, seed=1)
    held = {corpus.sources[int(n)] for n in np.flatnonzero(corpus.held_out)}
    assert not held & set(drawn)
    num_japanese = sum(any("぀" <= c <= "ヿ" for c in text) for text in drawn)
    assert 35 <= num_japanese <= 46
    assert sum(text.isascii() for text in drawn) >= 10


def test_a_named_vocabulary_is_taken_and_a_broken_one_refused(tmp_path: Path, tiny_recipe, pairs_folder: Path):
    recipe = tiny_recipe("static")
    corpus = build_corpus(recipe, tmp_path / "corpus")
    tokenizer = make_vocabulary(corpus, recipe)
    assert json.loads(tokenizer.to_str())["model"]["type"] == "Unigram"
    assert tokenizer.get_vocab_size() == 700
    assert list(SPECIAL_TOKENS) == [tokenizer.id_to_token(i) for i in range(4)]
    (pairs_folder / "broken").mkdir(exist_ok=True)
    (pairs_folder / "broken" / "tokenizer.json").write_text('{"model"')
    for folder in ("broken", "none"):
        with pytest.raises(FolderError, match="no readable tokenizer"):
            make_vocabulary(corpus, tiny_recipe("static", overrides=[f"vocabulary.folder={folder}"]))
    (pairs_folder / "others").mkdir(exist_ok=True)
    (pairs_folder / "others" / "tokenizer.json").write_text(tokenizer.to_str().replace("[UNK]", "<unk>"))
    with pytest.raises(FolderError, match=r"others begins its vocabulary with \[PAD\] <unk> \[CLS\] \[SEP\], not"):
        make_vocabulary(corpus, tiny_recipe("static", overrides=["vocabulary.folder=others"]))
