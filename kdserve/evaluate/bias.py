"""Language bias: in a pooled index of many languages, does a query prefer texts in its own?

As LAReQA (Roy et al. 2020, arXiv:2004.05484) measures it: every query has right answers in all languages, all
candidates lie in one pool, and mean average precision falls when wrong texts of the query's own language stand before
right ones of others. Here the queries are the sentences of a parallel corpus and the answers are their translations;
the sentence itself is taken out of the pool.
Axes: L languages, N sentences, P = L·N pool, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdserve.datatypes import Embedder, Progress, no_progress
from kdserve.errors import DataError
from kdserve.evaluate.retrieval import answer_ranks, average_precision
from kdserve.vectors import checked

BLOCK = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageBias:
    """Mean average precision (0 to 1) over a pool of all languages, and what a query's own language takes from it.

    `pooled` is over all candidates; `without_own` leaves out the wrong sentences in the query's own language, so
    `lost` is what they cost: 0 means no bias. `own_first` is the share of queries whose first hit is a sentence of
    their own language, wrong by construction. `by_language` is `pooled` for the queries of each language.
    """

    num_queries: int
    pooled: float
    without_own: float
    own_first: float
    by_language: Mapping[str, float]

    @property
    def lost(self) -> float:
        """Average precision lost to the query's own language."""
        return self.without_own - self.pooled


def language_bias(
    embedder: Embedder, parallel: Mapping[str, Sequence[str]], *, progress: Progress = no_progress
) -> LanguageBias:
    """Measure mean average precision over one pool of a parallel corpus: row i means the same in every language.

    Raises:
        DataError: fewer than two languages, or languages of different or no length.
    """
    lengths = {len(texts) for texts in parallel.values()}
    if len(parallel) < 2 or len(lengths) != 1 or not lengths.copy().pop():
        raise DataError(f"{len(parallel)} languages with {sorted(lengths)} sentences; give at least 2 of one length")
    languages, (num_rows,) = list(parallel), lengths
    pool = [text for texts in parallel.values() for text in texts]
    pool_PD = checked(embedder.encode_query(pool), len(pool), embedder.dim)
    language_P, row_P = np.repeat(np.arange(len(languages)), num_rows), np.tile(np.arange(num_rows), len(languages))
    pooled, without_own, own_first = np.zeros(len(pool)), np.zeros(len(pool)), np.zeros(len(pool), bool)
    for start in range(0, len(pool), BLOCK):
        scores = pool_PD[start : start + BLOCK] @ pool_PD.T
        for query, scores_P in enumerate(scores, start=start):
            right_P, own_P = row_P == row_P[query], language_P == language_P[query]
            right, wrong = scores_P[right_P & ~own_P], scores_P[~right_P]
            abroad, own = scores_P[~right_P & ~own_P], scores_P[~right_P & own_P]
            pooled[query] = average_precision(answer_ranks(right, wrong))
            without_own[query] = average_precision(answer_ranks(right, abroad))
            own_first[query] = own.max(initial=-np.inf) >= max(right.max(), abroad.max(initial=-np.inf))
        progress("language bias", min(start + BLOCK, len(pool)), len(pool))
    return LanguageBias(
        num_queries=len(pool),
        pooled=float(pooled.mean()),
        without_own=float(without_own.mean()),
        own_first=float(own_first.mean()),
        by_language={name: float(pooled[language_P == i].mean()) for i, name in enumerate(languages)},
    )
