"""The vocabulary that a student writes with: BPE inside words (Sennrich et al. 2016), all else in bytes.

Digits stand one by one, so that a number is copied, not remembered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from kdserve.distill.data.vocabulary import BYTE_TOKENS, too_few_tokens
from kdserve.errors import FolderError
from kdserve.runtime.library import open_normalizer
from kdserve.runtime.normalizer import MULTILINGUAL

TARGET_SPECIALS = ("<pad>", "</s>", "<unk>")
TARGET_PAD, TARGET_END = 0, 1
"""An output starts with the padding token, as T5's and Marian's do, and ends with the second."""
_WORDS = r"'(?:s|t|re|ve|m|ll|d)\b|▁?\p{L}[\p{L}\p{M}]*|▁?\p{N}|▁?[^\p{L}\p{N}▁]+|▁"
_MOST_LETTERS = 1000


def train_target_vocabulary(texts: Iterable[str], size: int) -> Tokenizer:
    """Train a vocabulary of `size` tokens: specials and 256 bytes among them; `text </s>`.

    Raises:
        DataError: the texts do not hold that many pieces.
    """
    learner = _shell(models.BPE(unk_token=TARGET_SPECIALS[2]))
    wanted = size - len(BYTE_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=wanted,
        special_tokens=list(TARGET_SPECIALS),
        limit_alphabet=min(_MOST_LETTERS, wanted // 2),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    if len(learned["vocab"]) < wanted:
        raise too_few_tokens(len(learned["vocab"]) + len(BYTE_TOKENS), size)
    pieces = sorted(set(learned["vocab"]) - set(TARGET_SPECIALS), key=learned["vocab"].get)
    return _assembled(pieces, [tuple(merge) for merge in learned["merges"]])


def restore_target_vocabulary(tokens: Sequence[str]) -> Tokenizer:
    """Make such a vocabulary writable again, of which only its tokens are left, in the order of their numbers.

    A piece is merged of the two that those before it leave of its letters. Where training made one of two pairs, the
    second is lost, and with it a word in some thousands is cut otherwise.

    Raises:
        FolderError: the tokens are not of such a vocabulary.
    """
    start = len(TARGET_SPECIALS) + len(BYTE_TOKENS)
    if tuple(tokens[:start]) != (*TARGET_SPECIALS, *BYTE_TOKENS):
        raise FolderError(
            "its target tokenizer only reads tokens back, and was not made by kdserve; give the student's folder"
        )
    pieces = list(tokens[start:])
    ranks: dict[tuple[str, str], int] = {}
    for piece in pieces:
        parts = list(piece)
        while len(parts) > 2:
            rank, at = min((ranks.get(pair, len(pieces)), at) for at, pair in enumerate(pairwise(parts)))
            if rank == len(pieces):
                raise FolderError(
                    f"its target tokenizer only reads tokens back: nothing makes {piece!r}; give the student's folder"
                )
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            ranks[parts[0], parts[1]] = len(ranks)
    return _assembled(pieces, list(ranks))


def _assembled(pieces: Sequence[str], merges: list[tuple[str, str]]) -> Tokenizer:
    order = [*TARGET_SPECIALS, *BYTE_TOKENS, *pieces]
    vocabulary = {token: number for number, token in enumerate(order)}
    tokenizer = _shell(models.BPE(vocabulary, merges, unk_token=TARGET_SPECIALS[2], byte_fallback=True))
    tokenizer.add_special_tokens(list(TARGET_SPECIALS))
    end = TARGET_SPECIALS[TARGET_END]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, TARGET_END)])
    return tokenizer


def _shell(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = open_normalizer(MULTILINGUAL)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Split(Regex(_WORDS), "isolated")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return tokenizer
