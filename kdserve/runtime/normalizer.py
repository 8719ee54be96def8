r"""How a text is read before it is cut into pieces, in the JSON of the tokenizers library.

What nobody sees is dropped: control characters, directional marks, soft hyphens, byte-order marks, fillers and all
else that Unicode calls default-ignorable. The zero-width space is a space, as in Unicode's rules for words (UAX #29),
but for scripts that write none. Joiners stay where they decide what is read: inside words of the scripts that join
(Persian, Hindi), after a virama, between emoji; variation selectors 15 and 16 stay after emoji. Points and vowel marks
of Hebrew and Arabic go, as everyday text has none; marks of all other scripts stay.

Patterns are written for two engines, Oniguruma here and `RegExp` in JavaScript: characters beyond \uFFFF stand as
themselves.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_IGNORABLE = (
    r"\u0000-\u0008\u000E-\u001B\u007F-\u0084\u0086-\u009F\u00AD\u034F\u061C\u115F\u1160\u17B4\u17B5\u180B-\u180F"
    r"\u200E\u200F\u202A-\u202E\u2060-\u206F\u3164\uFE00-\uFE0D\uFEFF\uFFA0\uFFF0-\uFFFB"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_WITHOUT_SPACES = r"\u0E00-\u0EFF\u1000-\u109F\u1780-\u17FF\u3040-\u30FF\u3400-\u9FFF"
_EMOJI = "\\u2190-\\u2BFF\\uFE0F\U0001f000-\U0001faff"
_EMOJI_BASE = "#*0-9\\u00A9\\u00AE\\u203C-\\u3299\U0001f000-\U0001faff"
_JOINING = (
    r"\u0620-\u0669\u066E-\u06D3\u06D5-\u0963\u0966-\u096F\u0971-\u0DFF\u0F00-\u0FFF\u1000-\u109F\u1780-\u18AF"
    r"\u1900-\u1CFF\uA800-\uABFF"
)
_VIRAMA = r"\u094D\u09CD\u0A4D\u0ACD\u0B4D\u0BCD\u0C4D\u0CCD\u0D4D\u0DCA"
_JOINERS = r"\u200C\u200D"
_HEBREW_POINTS = r"\u0591-\u05BD\u05BF\u05C1\u05C2\u05C4\u05C5\u05C7"
_ARABIC_MARKS = (
    r"\u0610-\u061A\u0640\u064B-\u0652\u0656-\u065F\u0670\u06D6-\u06DC\u06DF-\u06E4\u06E7\u06E8\u06EA-\u06ED"
)


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


SPACES = _replace(r"\s+", " ")
INVISIBLE = (
    _replace(rf"[{_IGNORABLE}]|(?<=[{_WITHOUT_SPACES}])\u200B", ""),
    _replace(
        rf"(?<![\p{{L}}\p{{M}}\p{{N}}{_EMOJI}])[{_JOINERS}]"
        rf"|(?<![{_VIRAMA}])[{_JOINERS}](?![{_JOINERS}]*[{_JOINING}{_EMOJI}])"
        rf"|(?<![{_EMOJI_BASE}])[\uFE0E\uFE0F]",
        "",
    ),
    _replace(r"[\u001C-\u001F\u0085\u200B\u2800]", " "),
)
MARKS = _replace(rf"[{_HEBREW_POINTS}{_ARABIC_MARKS}]", "")
NORMALIZER: dict[str, Any] = {
    "type": "Sequence",
    "normalizers": [*INVISIBLE, {"type": "NFKC"}, MARKS, {"type": "Lowercase"}, SPACES],
}
_BEFORE: dict[str, Any] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, SPACES]}
_STRIP = {"type": "Strip", "strip_left": True, "strip_right": True}
MULTILINGUAL: dict[str, Any] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, SPACES, _STRIP]}
"""What kdserve writes for the multilingual teacher and for what students write: capitals and marks stay."""


_BLANK = re.compile(rf"[\s{_IGNORABLE}{_JOINERS}\u001C-\u001F\u200B\u2800\uFE0E\uFE0F{_HEBREW_POINTS}{_ARABIC_MARKS}]*")


def without_invisible(normalizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a normalizer's JSON that drops what nobody sees first, whatever it does then."""
    steps = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    return {"type": "Sequence", "normalizers": [*INVISIBLE, *(step for step in steps if step)]}


def fold_word(word: str) -> str:
    """Return a word without case and accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(c))


def is_blank(text: str) -> bool:
    """Say whether a text shows nothing: spaces, invisible characters and marks without a letter alone."""
    return _BLANK.fullmatch(text) is not None


def with_present_normalizer(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tokenizer's JSON with the normalizer of today where it has one that kdserve wrote before.

    Tokenizers of other makers keep their own, and so do vocabularies that students write with (BPE): one that goes on
    from where it was saved has the same.
    """
    if isinstance(model := tokenizer.get("model"), Mapping) and model.get("type") == "BPE":
        return dict(tokenizer)
    for before, today in ((_BEFORE, NORMALIZER), (MULTILINGUAL, without_invisible(MULTILINGUAL))):
        if tokenizer.get("normalizer") == before:
            return {**tokenizer, "normalizer": today}
    return dict(tokenizer)
