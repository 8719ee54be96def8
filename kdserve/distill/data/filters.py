"""Pairs that teach a student to write nothing good: of odd lengths, in a foreign script, said twice.

Letters: P pairs.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import SOURCE, Corpus
from kdserve.distill.data.pairs import hash_text
from kdserve.recipe import FilterRecipe

_SCRIPTS = {
    "zh": "\u3400-\u9fff\U00020000-\U0003ffff",
    "ja": "\u3040-\u30ff\u3400-\u9fff",
    "ko": "\u1100-\u11ff\uac00-\ud7af\u3400-\u9fff",
    "el": "\u0370-\u03ff\u1f00-\u1fff",
    "hy": "\u0530-\u058f",
    "ka": "\u10a0-\u10ff",
    "am": "\u1200-\u137f",
    "th": "\u0e00-\u0e7f",
    "lo": "\u0e80-\u0eff",
    "km": "\u1780-\u17ff",
    "my": "\u1000-\u109f",
    "bn": "\u0980-\u09ff",
    "pa": "\u0a00-\u0a7f",
    "gu": "\u0a80-\u0aff",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "kn": "\u0c80-\u0cff",
    "ml": "\u0d00-\u0d7f",
    "sr": "\u0400-\u052fA-Za-z\u00c0-\u024f",
    **dict.fromkeys(("ru", "uk", "bg", "be", "mk", "kk", "ky", "mn", "tg", "tt"), "\u0400-\u052f"),
    **dict.fromkeys(
        ("ar", "fa", "ur", "ps", "ckb", "ug", "sd"), "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff"
    ),
    **dict.fromkeys(("he", "yi"), "\u0590-\u05ff\ufb1d-\ufb4f"),
    **dict.fromkeys(("hi", "mr", "ne", "sa"), "\u0900-\u097f"),
}
"""The letters of languages that are not written in Latin ones."""
_LATIN = "A-Za-z\u00aa-\u024f\u1e00-\u1eff"
_LETTER = re.compile(r"[^\W\d_]")
_GRAM, _MIN_GRAMS = 4, 20


def keep_pairs(
    corpus: Corpus, settings: FilterRecipe, *, translates: bool, progress: Progress = no_progress
) -> npt.NDArray[np.bool_]:
    """Say which pairs pass: (P,). Unless it `translates`, what is written is in the language of what is read."""
    kept = _fits(corpus, settings.max_ratio)
    seen: set[int] = set()
    for number in np.flatnonzero(kept).tolist():
        if number % 20_000 == 0:
            progress("filtering pairs", number, len(kept))
        read, written = corpus.translations[number], corpus.sources[corpus.source_of[number]]
        language = corpus.languages[corpus.language_of[number]]
        scripts = _script_of(language), _script_of(SOURCE if translates else language)
        kept[number] = not (
            (settings.max_characters and max(len(read), len(written)) > settings.max_characters)
            or (settings.script and not (_in_script(read, scripts[0]) and _in_script(written, scripts[1])))
            or (settings.repeats and (read == written or says_again(read) or says_again(written)))
            or (settings.repeats and _was_seen(seen, language, read, written))
        )
    progress("filtering pairs", len(kept), len(kept))
    return kept


def says_again(text: str) -> bool:
    """Tell whether less than half of a text's runs of four characters are different, as where it goes in circles."""
    grams = [text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)]
    return len(grams) >= _MIN_GRAMS and len(set(grams)) < len(grams) / 2


def _fits(corpus: Corpus, most: float) -> npt.NDArray[np.bool_]:
    """Whether the sides' ratio in bytes is at most `most` times off what is usual in the pair's language: (P,)."""
    if not most:
        return np.ones(len(corpus.source_of), dtype=np.bool_)
    read = corpus.translations.ends - corpus.translations.starts
    written = (corpus.sources.ends - corpus.sources.starts)[corpus.source_of]
    logs = np.log(read) - np.log(written)
    usual = np.zeros(len(corpus.languages))
    for number in np.unique(corpus.language_of):
        usual[number] = np.median(logs[corpus.language_of == number])
    fits: npt.NDArray[np.bool_] = np.abs(logs - usual[corpus.language_of]) <= np.log(most)
    return fits


@cache
def _script_of(language: str) -> re.Pattern[str]:
    return re.compile(f"[{_SCRIPTS.get(re.split('[-_]', language)[0], _LATIN)}]")


def _in_script(text: str, script: re.Pattern[str]) -> bool:
    return 2 * len(script.findall(text)) >= len(_LETTER.findall(text))


def _was_seen(seen: set[int], *parts: str) -> bool:
    key = hash_text("\t".join(parts))
    if key in seen:
        return True
    seen.add(key)
    return False
