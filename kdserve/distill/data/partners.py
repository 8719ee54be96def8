"""Texts that are taught together: each with a partner that says the same, and several joined into a longer one.

Letters: N texts or pairs, G groups.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kdserve.distill.data.corpus import Corpus


class Partners:
    """For each text, the other texts that say the same: the source sentence and its translations."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus, num_pairs = corpus, len(corpus.source_of)
        self.by_source = np.argsort(corpus.source_of, kind="stable")
        self.starts = np.searchsorted(corpus.source_of[self.by_source], np.arange(len(corpus.sources) + 1))
        self.place = np.empty(num_pairs, dtype=np.int64)
        self.place[self.by_source] = np.arange(num_pairs)

    def draw(self, texts: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw a partner for each text; a text that stands alone is its own."""
        num_pairs, sources = len(self.corpus.source_of), self.corpus.sources_of(texts)
        first, others = self.starts[sources], self.starts[sources + 1] - self.starts[sources]
        own = np.where(texts < num_pairs, self.place[texts.clip(max=num_pairs - 1)] - first, others)
        drawn = np.floor(rng.random(len(texts)) * others).astype(np.int64)
        drawn += (drawn >= own) & (others > 0)
        is_source = drawn == others
        return np.where(is_source, sources + num_pairs, self.by_source[(first + drawn).clip(max=num_pairs - 1)])


def join_texts(
    texts_2N: npt.NDArray[np.int64],
    corpus: Corpus,
    lengths: npt.NDArray[np.int32],
    *,
    most: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Join texts of one language into passages of up to `most` tokens, their partners into the same passages.

    A passage's partner is the same in the source language, as a random partner's could change from text to text; one
    in the source language is its own. A teacher beside the student embeds whatever stands together, so this makes
    long lessons of short texts.

    Returns:
        The texts of passage after passage, then those of their partners (2 N,), and how many each passage has (2 G,);
        None where no two of the texts fit.
    """
    texts = texts_2N[0]
    languages = corpus.languages_of(texts)
    order = np.argsort(languages, kind="stable")
    texts, languages = texts[order], languages[order]
    partners = np.where(texts < len(corpus.source_of), corpus.sources_of(texts) + len(corpus.source_of), texts)
    fitting = most // max(1, int(lengths[np.concatenate([texts, partners])].max()))
    if fitting < 2:
        return None
    size = int(rng.integers(2, fitting + 1))
    first = np.flatnonzero(np.diff(languages, prepend=-1))
    place = np.arange(len(texts)) - np.repeat(first, np.diff(first, append=len(texts)))
    starts = np.flatnonzero(place % size == 0)
    counts = np.diff(starts, append=len(texts))
    return np.concatenate([texts, partners]), np.concatenate([counts, counts])
