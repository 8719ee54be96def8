from __future__ import annotations

import pytest

from kdserve import samples
from kdserve.distill.data.target_vocabulary import TARGET_END, restore_target_vocabulary, train_target_vocabulary
from kdserve.errors import DataError, FolderError


@pytest.fixture(scope="module")
def vocabulary():
    return train_target_vocabulary(samples.parallel()["en"], 700)


@pytest.mark.parametrize("text", ["It's 1,234 o'clock, isn't it?", "naïve – 你好 😀", '(a/b) "quoted" x_y'])
def test_a_text_comes_back_as_it_was(vocabulary, text):
    ids = vocabulary.encode(text).ids
    assert ids[-1] == TARGET_END
    assert vocabulary.decode(ids) == text


def test_it_has_the_size_that_was_asked_for_and_digits_stand_one_by_one(vocabulary):
    assert vocabulary.get_vocab_size() == 700
    tokens = vocabulary.encode("1984 or 2,026").tokens
    assert all(sum(map(str.isdigit, token)) <= 1 for token in tokens if not token.startswith("<0x"))


def test_too_few_texts_are_refused_with_what_they_hold():
    with pytest.raises(DataError, match=r"set vocabulary\.size to"):
        train_target_vocabulary(samples.parallel()["en"], 90_000)
    with pytest.raises(DataError, match=r"hold only \d+ tokens, not 5000; give more texts$"):
        train_target_vocabulary(["a small house"], 5000)


def test_of_its_tokens_alone_the_same_vocabulary_is_made_again(vocabulary):
    numbers = vocabulary.get_vocab()
    again = restore_target_vocabulary(sorted(numbers, key=numbers.__getitem__))
    texts = samples.parallel()["en"]
    assert [one.ids for one in again.encode_batch(texts)] == [one.ids for one in vocabulary.encode_batch(texts)]


def test_the_tokens_of_another_vocabulary_are_refused():
    with pytest.raises(FolderError, match="only reads tokens back"):
        restore_target_vocabulary(["<pad>", "a", "b"])
