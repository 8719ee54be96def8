"""The likeliest token each time.

B rows
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdserve.runtime.sequence.rules import Candidates, forbidden, num_candidates, without
from kdserve.runtime.sequence.session import DecoderState, Ids, SequenceSession
from kdserve.runtime.sequence.settings import Generation


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The tokens of B outputs, without start and end, and whether each reached its limit instead of an end."""

    ids: list[list[int]]
    is_cut: list[bool]


def greedy(
    session: SequenceSession, state: DecoderState, limits_B: Ids, rules: Generation, *, vocabulary: int
) -> Written:
    """Write until an end, or `limits_B` tokens. Rows that have ended leave the batch."""
    num_rows = len(limits_B)
    written = np.full((num_rows, 1 + int(limits_B.max(initial=0))), rules.start_id, np.int64)
    lengths, is_cut = np.zeros(num_rows, np.int64), [False] * num_rows
    rows, ends = np.arange(num_rows), np.array(rules.end_ids)
    tokens = written[:, 0]
    for step in range(written.shape[1] - 1):
        tokens, state = _next(session, tokens, state, written[rows, : step + 1], rules, vocabulary)
        at_limit = limits_B[rows] == step + 1
        if rules.forced_end_id is not None:
            tokens = np.where(at_limit, rules.forced_end_id, tokens)
        has_ended = (tokens[:, None] == ends).any(axis=1)
        written[rows, step + 1] = tokens
        lengths[rows] = step + 1 - has_ended
        for row in rows[at_limit & ~has_ended].tolist():
            is_cut[row] = True
        stay = np.flatnonzero(~(has_ended | at_limit))
        if not len(stay):
            break
        if len(stay) < len(rows):
            rows, tokens, state = rows[stay], tokens[stay], state.take(stay)
    ids = [row[1 : 1 + length].tolist() for row, length in zip(written, lengths, strict=True)]
    return Written(ids=ids, is_cut=is_cut)


def _next(
    session: SequenceSession, tokens: Ids, state: DecoderState, written: Ids, rules: Generation, vocabulary: int
) -> tuple[Ids, DecoderState]:
    names = forbidden(written, rules) if rules.no_repeat_ngram or rules.min_tokens else []
    ids, scores, state = session.step(tokens, state, num_best=num_candidates(1, names, vocabulary))
    if any(names):
        ids = without(Candidates(ids=ids, scores=scores), names).ids
    chosen: Ids = ids[:, 0]
    if written.shape[1] == 1 and rules.forced_start_id is not None:
        chosen = np.full_like(chosen, rules.forced_start_id)
    return chosen, state
