from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from kdserve import samples
from kdserve.distill.data.splitting import TokenSplitter, make_splitter
from kdserve.distill.data.vocabulary import BYTE_TOKENS, SPECIAL_TOKENS, assemble_unigram, train_unigram
from kdserve.errors import RecipeError

PIECES = [("▁house", -3.0), ("▁ho", -4.0), ("use", -4.0), ("▁h", -3.0), ("o", -5.0), ("u", -5.0), ("se", -3.0)]
FIRST = len(SPECIAL_TOKENS) + len(BYTE_TOKENS)


def split(splitter: TokenSplitter, *texts: list[int], seed: int = 0) -> list[list[int]]:
    tokens, lengths = np.concatenate(texts).astype(np.int32), np.array([len(text) for text in texts])
    tokens, lengths = splitter.split(tokens, lengths, np.random.default_rng(seed))
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]


def test_a_token_is_cut_into_the_likeliest_others_and_a_letter_stays_whole():
    splitter = make_splitter(assemble_unigram(PIECES), share=1.0, most=9)
    house, ho, use, _, o, u, se = range(FIRST, FIRST + len(PIECES))
    assert split(splitter, [house], [o, ho, use]) == [[ho, use], [o, FIRST + 3, o, u, se]]


def test_specials_and_bytes_stay_whole_and_cut_texts_are_the_same_texts():
    parallel = samples.parallel()
    tokenizer = train_unigram([*parallel["en"], *parallel["de"]], 1200)
    whole = list(range(FIRST))
    splitter = make_splitter(tokenizer, share=0.3, most=1000)
    assert split(splitter, whole) == [whole]
    texts = [encoding.ids for encoding in tokenizer.encode_batch(parallel["de"][:50], add_special_tokens=False)]
    cut = split(splitter, *texts)
    assert tokenizer.decode_batch(cut) == tokenizer.decode_batch(texts)
    longer = sum(map(len, cut)) / sum(map(len, texts))
    assert 1.1 < longer < 1.6
    assert split(splitter, *texts) == cut
    assert split(splitter, *texts, seed=1) != cut


def test_no_text_gets_longer_than_the_student_reads():
    tokenizer = assemble_unigram(PIECES)
    house, ho, use = FIRST, FIRST + 1, FIRST + 2
    splitter = make_splitter(tokenizer, share=1.0, most=3)
    assert split(splitter, [house, house], [], [house]) == [[ho, use, ho], [], [ho, use]]


def test_another_kind_of_vocabulary_is_refused():
    with pytest.raises(RecipeError, match="needs a Unigram vocabulary, this one is WordLevel"):
        make_splitter(Tokenizer(models.WordLevel({"a": 0})), share=0.1, most=8)
