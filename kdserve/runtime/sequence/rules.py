"""Which tokens may not come next: those that would repeat an n-gram, and the end before its time.

B rows, T tokens written, the start token among them, K candidates
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdserve.runtime.sequence.session import Floats, Ids
from kdserve.runtime.sequence.settings import Generation


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """The K best tokens of each row and their scores (B, K), best first, those that may not come at -infinity."""

    ids: Ids
    scores: Floats


def forbidden(written_BT: Ids, rules: Generation) -> list[frozenset[int]]:
    """Name, for each row, the tokens that may not come next."""
    num_rows, length = written_BT.shape
    always = frozenset(rules.end_ids) if length - 1 < rules.min_tokens else frozenset()
    size = rules.no_repeat_ngram
    if not size or length < size:
        return [always] * num_rows
    starts = length + 1 - size
    repeats_BT = np.ones((num_rows, starts), bool)
    for place in reversed(range(size - 1)):
        repeats_BT &= written_BT[:, place : place + starts] == written_BT[:, starts + place, None]
        if not repeats_BT.any():
            return [always] * num_rows
    nexts_BT = written_BT[:, size - 1 :]
    return [always | set(own[again].tolist()) for own, again in zip(nexts_BT, repeats_BT, strict=True)]


def num_candidates(needed: int, names: list[frozenset[int]], vocabulary: int) -> int:
    """How many candidates to ask for, so that `needed` are left of every row."""
    return min(vocabulary, needed + max(map(len, names), default=0))


def without(candidates: Candidates, names: list[frozenset[int]]) -> Candidates:
    """Put what may not come at the end of each row, at -infinity; the order of the others stays."""
    if not any(names):
        return candidates
    ids, scores = candidates.ids, candidates.scores.copy()
    for row, name in enumerate(names):
        if name:
            scores[row, np.isin(ids[row], list(name))] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    return Candidates(ids=np.take_along_axis(ids, order, 1), scores=np.take_along_axis(scores, order, 1))
