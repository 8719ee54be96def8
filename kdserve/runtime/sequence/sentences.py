"""The sentences of a line, which a translator reads at once, and parts of those that are too long for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kdserve.runtime.stops import sentence_ends

_CLAUSE = re.compile(r"(?<=[,;:，；：、–—])\s*|\s+")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, and the white space behind it."""

    text: str
    space: str


def split_sentences(line: str) -> list[Sentence]:
    """Cut a line into sentences; all texts and spaces together are the line again."""
    sentences, start = [], 0
    for end in [*sentence_ends(line), len(line)]:
        if whole := line[start:end]:
            text = whole.rstrip()
            sentences.append(Sentence(text, whole[len(text) :]))
        start = end
    return sentences


def split_long(sentence: Sentence, *, fits: Callable[[str], bool]) -> list[Sentence]:
    """Cut a sentence that does not fit in two behind a comma or at a space, at any place if need be, until all fit."""
    text = sentence.text
    if len(text) < 2 or fits(text):
        return [sentence]
    middle = len(text) // 2
    places = [match.span() for match in _CLAUSE.finditer(text) if match.start() > 0 and match.end() < len(text)]
    stop, start = min(places, key=lambda place: _badness(text, place, middle), default=(middle, middle))
    halves = Sentence(text[:stop], text[stop:start]), Sentence(text[start:], sentence.space)
    return [part for half in halves for part in split_long(half, fits=fits)]


def _badness(text: str, place: tuple[int, int], middle: int) -> float:
    """The middle is best; behind a comma may be a quarter of the text away from it."""
    away = abs(place[0] - middle) / len(text)
    return away if text[place[0] - 1] in ",;:，；：、–—" else away + 0.25
