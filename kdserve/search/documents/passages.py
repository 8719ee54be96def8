"""Split documents that are longer than a model's window into overlapping passages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from kdserve.datatypes import Embedder
from kdserve.errors import DataError
from kdserve.runtime.stops import CLOSERS, STOP, WIDE_STOPS

Span = tuple[int, int]
"""The characters [start, end) of a document's text."""
CountTokens = Callable[[Sequence[str]], list[int]]
OVERLAP_SHARE = 8
"""Neighbouring passages share about an eighth of the window."""
LEAST_WINDOW = 16
USUAL_WINDOW = 256
"""Tokens of a passage, whatever more the encoder reads: vectors of longer ones say less of each part."""
MOST_WORD_TOKENS = 12
"""Words of more tokens are taken apart: stretches without a space, as in Chinese, Japanese or Thai."""
PIECE_CHARACTERS = 16
CHARACTERS_A_TOKEN = 6
"""A text of more for each token of the window is split without trying whether it fits."""
_ENDS = f"、，；：{WIDE_STOPS}"
WORD = re.compile(rf"[^\s{_ENDS}]{{1,64}}[{_ENDS}]*\s*|[{_ENDS}]+\s*|\s+")
PIECE = re.compile(rf"\S{{1,{PIECE_CHARACTERS}}}\s*")
SENTENCE_END = re.compile(rf"{STOP}{CLOSERS}\s*$|[{WIDE_STOPS}]|\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Splitting:
    """How documents are split: those of more than `window` tokens into passages, 0 for none; and whether the
    `sentences` of each passage are embedded too.
    """

    window: int
    sentences: bool = False


@runtime_checkable
class TokenCounter(Embedder, Protocol):
    """An embedder that cuts texts at `max_tokens` and can say how many tokens a text has."""

    @property
    def max_tokens(self) -> int:
        """Texts are cut after so many tokens."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text as a document, before any cut."""


def choose_window(encoder: Embedder, passage_tokens: int) -> int:
    """The tokens of a passage: as asked, for 0 what suits it; 0 for an encoder that cannot count them.

    Raises:
        DataError: fewer than 16, or more than the encoder reads.
    """
    if not isinstance(encoder, TokenCounter):
        return 0
    if passage_tokens and not LEAST_WINDOW <= passage_tokens <= encoder.max_tokens:
        raise DataError(
            f"passages of {passage_tokens} tokens cannot be; choose between {LEAST_WINDOW} and {encoder.max_tokens}"
        )
    return passage_tokens or min(USUAL_WINDOW, encoder.max_tokens)


def split_text(text: str, count_tokens: CountTokens, window: int) -> list[Span]:
    """The spans of passages of at most `window` tokens that cover a text; the whole text where that is short enough.

    Passages end at the end of a sentence where there is one in their last third, and begin again about an eighth of the
    window before that, at the beginning of a sentence where there is one near.
    """
    may_fit = len(text) <= window * CHARACTERS_A_TOKEN
    if len(text.encode()) < window or (may_fit and count_tokens([text.strip()])[0] <= window):
        return [(0, len(text))]
    words, sizes, num_special = _count_words(text, count_tokens)

    def ends_sentence(word: int) -> bool:
        return SENTENCE_END.search(text, *words[word]) is not None

    spans, first = [], 0
    while True:
        stop = _stop(first, sizes, ends_sentence, window - num_special)
        span = _trimmed(text, words[first][0], words[stop - 1][1])
        while stop - first > 1 and count_tokens([text[slice(*span)]])[0] > window:
            stop -= 1
            span = _trimmed(text, words[first][0], words[stop - 1][1])
        spans.append(span)
        if stop == len(words):
            return spans
        first = max(first + 1, _next_first(first, stop, sizes, ends_sentence, window // OVERLAP_SHARE))


def _count_words(text: str, count_tokens: CountTokens) -> tuple[list[Span], list[int], int]:
    """The words of a text, the tokens of each, and how many special ones a text has beside. White space is no token,
    and words without it are what the tokenizer remembers.
    """
    found = [(match.span(), match[0].rstrip()) for match in WORD.finditer(text)]
    different = dict.fromkeys(word for _, word in found)
    num_special, *counts = count_tokens(["", *different])
    num_tokens = {word: count - num_special for word, count in zip(different, counts, strict=True)}
    words: list[Span] = []
    sizes: list[int] = []
    for (start, end), word in found:
        count = num_tokens[word]
        if count > MOST_WORD_TOKENS and end - start > PIECE_CHARACTERS:
            pieces = [match.span() for match in PIECE.finditer(text, start, end)]
            words += pieces
            sizes += [max(1, count // len(pieces))] * len(pieces)
        else:
            words.append((start, end))
            sizes.append(count or 1)
    return words, sizes, num_special


def _stop(first: int, sizes: Sequence[int], ends_sentence: Callable[[int], bool], room: int) -> int:
    """The word after the last of the passage that begins with `first`."""
    total, stop, sentence = 0, first, first
    while stop < len(sizes) and (total + sizes[stop] <= room or stop == first):
        total += sizes[stop]
        stop += 1
        if total > room * 2 // 3 and ends_sentence(stop - 1):
            sentence = stop
    return sentence if sentence > first and stop < len(sizes) else stop


def _next_first(first: int, stop: int, sizes: Sequence[int], ends_sentence: Callable[[int], bool], overlap: int) -> int:
    """The first word of the passage after the one that ended before `stop`."""
    total, start, sentence = 0, stop, stop
    while start - 1 > first and total + sizes[start - 1] <= 2 * overlap:
        start -= 1
        total += sizes[start]
        if ends_sentence(start - 1):
            sentence = start
        if total >= overlap and sentence < stop:
            break
    if sentence < stop:
        return sentence
    while start < stop and total > overlap:
        total -= sizes[start]
        start += 1
    return start


def _trimmed(text: str, start: int, end: int) -> Span:
    """The span without white space at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - (len(part) - len(part.rstrip()))
