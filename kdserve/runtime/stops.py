"""Where sentences end, by small rules that ask no model: for translators, answers and snippets.

Signs of a script without spaces (。！？) end a sentence wherever they stand, others (. ! ? …) before a space and
what can begin one. A full stop behind a title, a single letter or a small number (Dr. J. Smith, 3. Mai) ends none, nor
does one before a number behind what counts (No. 7, Art. 3), which may be a word as well: creo que no. Passages, which
need not end with a sentence, take the signs alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_STOPS = r".!?…؟۔॥։።។"
WIDE_STOPS = r"。！？｡।။"
"""In brackets of a regular expression: signs of scripts that write no space behind them, or not always."""
_CLOSERS = r"\"'”’»›)\]」』】）"
STOP = rf"[{_STOPS}]"
"""Ends a sentence before a space: inside words it ends none (2.5), nor before the number of a verse."""
CLOSERS = rf"[{_CLOSERS}“«‹]*"
"""What may stand between such a sign and the space: German's “ and «, which open elsewhere, too."""
_END = re.compile(  # a run of stops is tried from its first alone, so that a line of dots takes no square of its length
    rf"(?P<wide>[{WIDE_STOPS}]+[{_CLOSERS}]*\s*)|(?<!{STOP})(?P<stop>{STOP}+){CLOSERS}\s+(?=(?P<next>\S))"
)
_WORD_BEFORE = re.compile(rf"[^\s(\[\"'“„«{WIDE_STOPS}]*$")
_TITLES = re.compile(
    "al|approx|bzw|ca|cf|co|corp|dept|dr|etc|fig|gen|gov|hr|hon|inc|jr|ltd|(?-i:MM)|mme|mlle|mrs?|ms|mt|nr|pp?|prof|rev|sen|"
    "sig|sra?|st|str|u|usw|v|vgl|vs|z",
    re.IGNORECASE,
)
_BEFORE_NUMBERS = re.compile("art|no|vol", re.IGNORECASE)
_LOOKED_BACK = 16
"""Characters before a full stop that tell a title from a word: more than any title has."""


def sentence_ends(text: str, start: int = 0, stop: int | None = None) -> Iterator[int]:
    """Where sentences of text[start:stop] end, behind the white space that follows them; the end of a text is none."""
    for match in _END.finditer(text, start, len(text) if stop is None else stop):
        before = text[max(0, match.start() - _LOOKED_BACK) : match.start()]
        if match["wide"] is not None or _ends_here(before, match["stop"], match["next"]):
            yield match.end()


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
