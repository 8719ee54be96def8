"""Which tokens may not come next: those that would repeat an n-gram, stand in a row too often or begin another number,
and the end before its time.

B rows, T tokens written, the start token among them, K candidates
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kdserve.runtime.sequence.numbers import Kept
from kdserve.runtime.sequence.session import Floats, Ids
from kdserve.runtime.sequence.settings import Generation


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """The K best tokens of each row and their scores (B, K), best first, those that may not come at -infinity."""

    ids: Ids
    scores: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """For each row the tokens that may not come next, and those of which one must, if there are any."""

    never: list[frozenset[int]]
    must: list[tuple[int, ...]]

    def num_candidates(self, needed: int, vocabulary: int) -> int:
        """How many candidates to ask for, so that `needed` are left of every row."""
        return min(vocabulary, needed + max(map(len, self.never), default=0))

    def keep(self, candidates: Candidates) -> Candidates:
        """Put what may not come at the end of each row, at -infinity; the order of the others stays.

        Where no candidate is one that must come, the first of those takes the best one's place and score.
        """
        if not any(self.never) and not any(self.must):
            return candidates
        ids, scores = candidates.ids.copy(), candidates.scores.copy()
        for row, (never, must) in enumerate(zip(self.never, self.must, strict=True)):
            if never:
                scores[row, np.isin(ids[row], list(never))] = -np.inf
            if must:
                others = ~np.isin(ids[row], must) | np.isneginf(scores[row])
                scores[row, others] = -np.inf
                if others.all():
                    ids[row, 0], scores[row, 0] = must[0], candidates.scores[row, 0]
        order = np.argsort(-scores, axis=1, kind="stable")
        return Candidates(ids=np.take_along_axis(ids, order, 1), scores=np.take_along_axis(scores, order, 1))


def bounds(written_BT: Ids, rules: Generation, kept: Kept | None) -> Bounds:
    """Say what may come next in each row; `kept` has a source for each, None where numbers and runs are free."""
    never = _repeats(written_BT, rules)
    if kept and rules.max_run:
        for row, token in _runs(written_BT, rules.max_run):
            if token not in kept.digits.written:
                never[row] |= {token}
    must: list[tuple[int, ...]] = [()] * len(written_BT)
    if kept and any(kept.numbers):
        found = [kept.digits.rule(row[1:].tolist(), own) for row, own in zip(written_BT, kept.numbers, strict=True)]
        never = [names | wrong for names, (wrong, _) in zip(never, found, strict=True)]
        must = [needed for _, needed in found]
    return Bounds(never=never, must=must)


def _repeats(written_BT: Ids, rules: Generation) -> list[frozenset[int]]:
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


def _runs(written_BT: Ids, most: int) -> Iterator[tuple[int, int]]:
    """Yield the rows that end in one token `most` times, with that token."""
    if written_BT.shape[1] > most:
        last = written_BT[:, -1]
        for row in np.flatnonzero((written_BT[:, -most:] == last[:, None]).all(axis=1)).tolist():
            yield row, int(last[row])
