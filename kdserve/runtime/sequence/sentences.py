"""Where sentences end, by small rules that ask no model: what a translator reads at once.

Signs of a script without spaces (。！？) end a sentence wherever they stand, others (. ! ? …) before a space and
what can begin one. A full stop behind a title, a single letter or a small number (Dr. J. Smith, 3. Mai) ends none, nor
does one before a number behind what counts (No. 7, Art. 3), which may be a word as well: creo que no.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kdserve.runtime.stops import CLOSERS, STOP, WIDE_STOP

_END = re.compile(  # a run of stops is tried from its first alone, so that a line of dots takes no square of its length
    rf"(?P<wide>{WIDE_STOP}\s*)|(?<!{STOP})(?P<stop>{STOP}+){CLOSERS}\s+(?=(?P<next>\S))"
)
_WORD_BEFORE = re.compile(r"[^\s(\[\"'“„«]*$")
_TITLES = re.compile(
    "al|approx|bzw|ca|cf|co|corp|dept|dr|etc|fig|gen|gov|hr|hon|inc|jr|ltd|mm?|mme|mlle|mrs?|ms|mt|nr|pp?|prof|rev|sen|"
    "sig|sra?|st|str|u|usw|v|vgl|vs|z",
    re.IGNORECASE,
)
_BEFORE_NUMBERS = re.compile("art|no|vol", re.IGNORECASE)
_LOOKED_BACK = 16
"""Characters before a full stop that tell a title from a word: more than any title has."""
_CLAUSE = re.compile(r"(?<=[,;:，；：、–—])\s*|\s+")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, and the white space behind it."""

    text: str
    space: str


def split_sentences(line: str) -> list[Sentence]:
    """Cut a line into sentences; all texts and spaces together are the line again."""
    sentences, start = [], 0
    for match in _END.finditer(line):
        before = line[max(start, match.start() - _LOOKED_BACK) : match.start()]
        if match["wide"] is None and not _ends_here(before, match["stop"], match["next"]):
            continue
        whole = line[start : match.end()]
        text = whole.rstrip()
        sentences.append(Sentence(text, whole[len(text) :]))
        start = match.end()
    rest = line[start:]
    text = rest.rstrip()
    if rest:
        sentences.append(Sentence(text, rest[len(text) :]))
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


def _ends_here(before: str, stop: str, after: str) -> bool:
    if after.islower():
        return False
    if stop != ".":
        return True
    found = _WORD_BEFORE.search(before)
    word = found[0] if found else ""
    if after.isdecimal() and _BEFORE_NUMBERS.fullmatch(word):
        return False
    if _TITLES.fullmatch(word) or (len(word) == 1 and word.isalpha() and word.isupper()):
        return False
    return not (word.isdigit() and len(word) <= 2) and "." not in word[-2:]


def _badness(text: str, place: tuple[int, int], middle: int) -> float:
    """The middle is best; behind a comma may be a quarter of the text away from it."""
    away = abs(place[0] - middle) / len(text)
    return away if text[place[0] - 1] in ",;:，；：、–—" else away + 0.25
