"""Hold out texts that speak of the same thing together, whatever their language, by the rare names that they share.

Letters: P pairs.
"""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.pairs import hash_text

_WORD = re.compile(r"[a-z]{3,}")
_MOST_PAIRS, _MIN_LANGUAGES = 100, 2


def hold_out_names(
    corpus: Corpus, permille: int, *, progress: Progress = no_progress
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Draw `permille` of the names; return which pairs may be trained on and which are held out, both (P,).

    Held out are those whose written side has a drawn name. Where only the read side has one, a pair is neither.
    """
    total = len(corpus.source_of)
    read: dict[str, list[int]] = defaultdict(list)
    written: dict[str, list[int]] = defaultdict(list)
    for number in range(total):
        if number % 20_000 == 0:
            progress("finding names", number, total)
        for text, pairs_of in (
            (corpus.translations[number], read),
            (corpus.sources[corpus.source_of[number]], written),
        ):
            for word in set(_WORD.findall(text.lower())):
                pairs_of[word].append(number)
    progress("finding names", total, total)
    trained, held = np.ones(total, dtype=np.bool_), np.zeros(total, dtype=np.bool_)
    for word in written:
        if hash_text(word) % 1000 >= permille:
            continue
        pairs = np.array(sorted({*read[word], *written[word]}))
        if len(pairs) <= _MOST_PAIRS and len(np.unique(corpus.language_of[pairs])) >= _MIN_LANGUAGES:
            trained[pairs] = False
            held[written[word]] = True
    return trained, held
