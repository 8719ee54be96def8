"""Names as the source writes them.

A writer with few tokens spells in pieces what it hardly knows, and names go wrong on the way: "Scholzzz". A word that
it spelt so, and that resembles a name of the source which the output lacks, becomes that name. Names are words in Latin
script with a capital letter; German nouns count too, and rarely resemble what an output spells with a capital letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import SequenceMatcher

from kdserve.runtime.normalizer import fold_word

_WORD = re.compile(r"(?<!\w)[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ\u0300-\u036f]{2,}(?!\w)")
_DOUBLED = re.compile(r"(.)\1+")


def restore_names(source: str, output: str, is_token: Callable[[str], bool], *, resemblance: float) -> str:
    """Return the output with the source's names in the place of what resembles them; each comes once.

    `is_token` says of a word whether it is one token: those are known, and stay. Words resemble each other by
    `difflib`'s ratio of at least `resemblance`, case, accents and doubled letters aside; the closest pairs come first.
    """
    names = {fold_word(word): word for word in reversed(_WORD.findall(source)) if word[0].isupper()}
    words = list(_WORD.finditer(output))
    lacking = {name for name in names if len(name) > 2}.difference(fold_word(one[0]) for one in words)
    if not lacking or source.isupper():
        return output
    spelt = {
        one.span(): folded
        for one in words
        if one[0][0].isupper() and (folded := fold_word(one[0])) not in names and not is_token(one[0])
    }
    pairs = [(-_ratio(folded, name), span, name) for span, folded in spelt.items() for name in lacking]
    restored: dict[tuple[int, int], str] = {}
    for distance, span, name in sorted(pairs):
        if -distance < resemblance:
            break
        if span not in restored and name not in restored.values():
            restored[span] = name
    for (start, end), name in sorted(restored.items(), reverse=True):
        output = output[:start] + names[name] + output[end:]
    return output


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, _DOUBLED.sub(r"\1", one), _DOUBLED.sub(r"\1", other), autojunk=False).ratio()
