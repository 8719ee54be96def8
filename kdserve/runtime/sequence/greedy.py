"""The likeliest token each time.

B rows
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kdserve.runtime.sequence.numbers import Kept
from kdserve.runtime.sequence.rules import Candidates, bounds
from kdserve.runtime.sequence.session import DecoderState, Ids, SequenceSession
from kdserve.runtime.sequence.settings import Generation

_WAITING = 8
"""Rows that have ended leave once they are one of so many: all others' keys and values are copied then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The tokens of B outputs, without start and end, and whether each reached its limit instead of an end.

    `candidates` are of each all that beams found to their ends, the best first; greedily there are none.
    """

    ids: list[list[int]]
    is_cut: list[bool]
    candidates: list[list[list[int]]] = field(default_factory=list)


def greedy(
    session: SequenceSession,
    state: DecoderState,
    limits_B: Ids,
    rules: Generation,
    *,
    vocabulary: int,
    kept: Kept | None = None,
) -> Written:
    """Write until an end, or `limits_B` tokens. Rows that have ended leave the batch, a few at once."""
    num_rows = len(limits_B)
    ids: list[list[int]] = [[] for _ in range(num_rows)]
    is_cut = [False] * num_rows
    rows, limits, ends = np.arange(num_rows), limits_B, np.array(rules.end_ids)
    is_running = np.ones(num_rows, bool)
    written = np.full((num_rows, 1 + int(limits.max(initial=0))), rules.start_id, np.int64)
    tokens = written[:, 0]
    for length in range(1, written.shape[1]):
        tokens, state = _next(session, tokens, state, written[:, :length], rules, vocabulary, kept)
        at_limit = limits == length
        if rules.forced_end_id is not None:
            tokens = np.where(at_limit, rules.forced_end_id, tokens)
        written[:, length] = tokens
        has_ended = (tokens[:, None] == ends).any(axis=1)
        done = is_running & (has_ended | at_limit)
        if not done.any():
            continue
        for place in np.flatnonzero(done).tolist():
            row, ended = rows[place], bool(has_ended[place])
            ids[row], is_cut[row] = written[place, 1 : length + 1 - ended].tolist(), not ended
        is_running &= ~done
        stay = np.flatnonzero(is_running)
        if not len(stay):
            break
        if (len(rows) - len(stay)) * _WAITING >= len(rows):
            rows, limits, is_running, written = rows[stay], limits[stay], is_running[stay], written[stay]
            tokens, state, kept = tokens[stay], state.take(stay), kept and kept.of(stay)
    return Written(ids=ids, is_cut=is_cut)


def _next(
    session: SequenceSession,
    tokens: Ids,
    state: DecoderState,
    written: Ids,
    rules: Generation,
    vocabulary: int,
    kept: Kept | None,
) -> tuple[Ids, DecoderState]:
    found = bounds(written, rules, kept)
    ids, scores, state = session.step(tokens, state, num_best=found.num_candidates(1, vocabulary))
    chosen: Ids = found.keep(Candidates(ids=ids, scores=scores)).ids[:, 0]
    if written.shape[1] == 1 and rules.forced_start_id is not None:
        chosen = np.full_like(chosen, rules.forced_start_id)
    return chosen, state
