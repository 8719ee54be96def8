"""Translation retrieval: is the nearest neighbour of a sentence, among all translations, its own one?

The measure of Tatoeba and BUCC (Artetxe & Schwenk 2019, arXiv:1812.10464), in both directions.
Axes: N sentences, D width; S rows of the sources, T rows of the targets in one block; P translations of S sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Embedder, Embeddings
from kdserve.errors import DataError
from kdserve.vectors import checked

BLOCK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationPairs:
    """Sentences and their translations, row by row; `domain` is the kind of text where a file tells it."""

    language: str
    sources: Sequence[str]
    targets: Sequence[str]
    domain: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationAccuracy:
    """Shares (0 to 1) of sentences whose nearest neighbour is their translation.

    `forward` looks from each source among the targets, `backward` from each target among the sources.
    """

    num_pairs: int
    forward: float
    backward: float

    @property
    def mean(self) -> float:
        """The mean of both directions."""
        return (self.forward + self.backward) / 2


def translation_accuracy(embedder: Embedder, sources: Sequence[str], targets: Sequence[str]) -> TranslationAccuracy:
    """Measure how often cosine finds the translation, in both directions.

    Both sides are embedded as queries: the task is symmetric.

    Raises:
        DataError: no pairs, or sides of different length.
    """
    if len(sources) != len(targets) or not sources:
        raise DataError(
            f"{len(sources)} sources stand against {len(targets)} targets; give the same number, at least 1"
        )
    source_ND = checked(embedder.encode_query(sources), len(sources), embedder.dim)
    target_ND = checked(embedder.encode_query(targets), len(targets), embedder.dim)
    return nearest_share(source_ND, target_ND)


def nearest_share(source_ND: Embeddings, target_ND: Embeddings) -> TranslationAccuracy:
    """Measure translation accuracy on vectors: row i of one side belongs to row i of the other.

    Works block by block, in `BLOCK`² floats of memory however many pairs there are. Of equal scores the first row
    wins, so a model that gives every text the same vector scores 1 in N.
    """
    num_pairs = len(source_ND)
    best_forward, best_backward = np.full(num_pairs, -np.inf), np.full(num_pairs, -np.inf)
    found_forward, found_backward = np.zeros(num_pairs, np.int64), np.zeros(num_pairs, np.int64)
    for start in range(0, num_pairs, BLOCK):
        rows = slice(start, start + BLOCK)
        for other in range(0, num_pairs, BLOCK):
            columns = slice(other, other + BLOCK)
            scores_ST = source_ND[rows] @ target_ND[columns].T
            _keep_best(scores_ST, best_forward[rows], found_forward[rows], offset=other)
            _keep_best(scores_ST.T, best_backward[columns], found_backward[columns], offset=start)
    right = np.arange(num_pairs)
    return TranslationAccuracy(
        num_pairs=num_pairs,
        forward=float(np.mean(found_forward == right)),
        backward=float(np.mean(found_backward == right)),
    )


def find_translations(
    foreign_PD: Embeddings, own_SD: Embeddings, source_P: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Score each of P translations, several of one source allowed, in one pool of all languages.

    Returns (P,): 1 where a translation is nearest to its source, of all sources, and the source to it; 0.5 for one of
    both. `source_P` is the row of each one's source. A source's other translations do not compete with this one.
    """
    nearest_wrong_S = np.full(len(own_SD), -np.inf, np.float32)
    right_P, to_source_P = np.empty(len(foreign_PD), np.float32), np.empty(len(foreign_PD), bool)
    for start in range(0, len(foreign_PD), BLOCK):
        rows = slice(start, start + BLOCK)
        cosines_BS = foreign_PD[rows] @ own_SD.T
        own = np.arange(len(cosines_BS)), source_P[rows]
        right_P[rows] = cosines_BS[own]
        cosines_BS[own] = -np.inf
        to_source_P[rows] = right_P[rows] > cosines_BS.max(axis=1)
        nearest_wrong_S = np.maximum(nearest_wrong_S, cosines_BS.max(axis=0))
    to_translation_P = right_P > nearest_wrong_S[source_P]
    return (to_source_P.astype(np.float32) + to_translation_P.astype(np.float32)) / np.float32(2)


def _keep_best(
    scores_ST: Embeddings, best_S: np.ndarray[tuple[int], np.dtype[np.float64]], found_S: np.ndarray, *, offset: int
) -> None:
    nearest_S = scores_ST.argmax(axis=1)
    score_S = np.take_along_axis(scores_ST, nearest_S[:, None], axis=1)[:, 0]
    better_S = score_S > best_S
    best_S[better_S] = score_S[better_S]
    found_S[better_S] = nearest_S[better_S] + offset
