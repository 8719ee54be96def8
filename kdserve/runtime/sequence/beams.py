"""Beam search, step for step as transformers has it (generation/utils.py, `_beam_search`), so that outputs agree.

I items, N beams each, K = 2 N or more candidates, T tokens written
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdserve.runtime.sequence.greedy import Written
from kdserve.runtime.sequence.numbers import Kept
from kdserve.runtime.sequence.rules import Candidates, bounds
from kdserve.runtime.sequence.session import DecoderState, Floats, Ids, SequenceSession
from kdserve.runtime.sequence.settings import Generation

_NEVER = np.float32(-1e9)


@dataclass(slots=True)
class _Beams:
    """Items under way: running and finished outputs (I, N, 1 + limit) with scores (I, N), best first."""

    places: Ids
    limits: Ids
    running: Ids
    running_scores: Floats
    finished: Ids
    finished_scores: Floats
    finished_lengths: Ids
    is_finished: npt.NDArray[np.bool_]
    may_improve: npt.NDArray[np.bool_]

    def take(self, items: Ids) -> _Beams:
        return _Beams(*(getattr(self, name)[items] for name in self.__slots__))

    def outputs(self, item: int) -> list[list[int]]:
        """The finished outputs of an item, the best first, and that alone where none is finished."""
        is_real = self.finished_scores[item] > _NEVER / 2
        is_real[0] = True
        rows = zip(self.finished[item], self.finished_lengths[item].tolist(), strict=True)
        return [row[1 : 1 + length].tolist() for (row, length), real in zip(rows, is_real, strict=True) if real]


def beam_search(
    session: SequenceSession,
    state: DecoderState,
    limits_I: Ids,
    rules: Generation,
    *,
    vocabulary: int,
    kept: Kept | None = None,
) -> Written:
    """Write the best outputs found with `rules.num_beams` beams. Items that are done leave the batch."""
    num_items, num_beams = len(limits_I), rules.num_beams
    beams = _begin(limits_I, rules)
    state = state.take(np.repeat(np.arange(num_items), num_beams))
    tokens = np.full(num_items * num_beams, rules.start_id, np.int64)
    outputs: list[list[int]] = [[] for _ in range(num_items)]
    is_cut = [False] * num_items
    candidates_of: list[list[list[int]]] = [[] for _ in range(num_items)]
    for step in range(int(limits_I.max(initial=0))):
        candidates, state = _candidates(session, tokens, state, beams, step, rules, vocabulary, kept)
        kept_from = _advance(beams, candidates, step, rules)
        done = _are_done(beams, step, rules)
        for item in np.flatnonzero(done).tolist():
            place, found = int(beams.places[item]), beams.outputs(item)
            ends = [bool(ids) and ids[-1] in rules.end_ids for ids in found]
            found = [ids[:-1] if end else ids for ids, end in zip(found, ends, strict=True)]
            outputs[place], is_cut[place] = found[0], not ends[0]
            candidates_of[place] = [ids for ids, end in zip(found, ends, strict=True) if end]
        stay = np.flatnonzero(~done)
        if not len(stay):
            break
        rows = (stay[:, None] * num_beams + kept_from[stay]).reshape(-1)
        state = state.take(rows) if len(stay) < len(done) else state.take_past(rows)
        beams = beams.take(stay) if len(stay) < len(done) else beams
        tokens = beams.running[:, :, step + 1].reshape(-1)
    return Written(ids=outputs, is_cut=is_cut, candidates=candidates_of)


def _begin(limits: Ids, rules: Generation) -> _Beams:
    shape = (len(limits), rules.num_beams)
    running = np.full((*shape, 1 + int(limits.max(initial=0))), rules.start_id, np.int64)
    scores = np.full(shape, _NEVER, np.float32)
    scores[:, 0] = 0  # all beams are alike yet: only the first counts
    return _Beams(
        places=np.arange(len(limits)),
        limits=limits,
        running=running,
        running_scores=scores,
        finished=running.copy(),
        finished_scores=np.full(shape, _NEVER, np.float32),
        finished_lengths=np.zeros(shape, np.int64),
        is_finished=np.zeros(shape, bool),
        may_improve=np.ones(len(limits), bool),
    )


def _candidates(
    session: SequenceSession,
    tokens: Ids,
    state: DecoderState,
    beams: _Beams,
    step: int,
    rules: Generation,
    vocabulary: int,
    kept: Kept | None,
) -> tuple[Candidates, DecoderState]:
    """The best next tokens of every beam, with log-probabilities: (I N, K)."""
    num_kept = 2 * rules.num_beams
    sources = np.repeat(beams.places, rules.num_beams)
    rows = bounds(beams.running[:, :, : step + 1].reshape(len(tokens), -1), rules, kept and kept.of(sources))
    num_best = rows.num_candidates(num_kept, vocabulary)
    ids, scores, state = session.step(tokens, state, num_best=num_best, likely=True)
    found = rows.keep(Candidates(ids=ids, scores=scores))
    ids, scores = found.ids[:, :num_kept].copy(), found.scores[:, :num_kept].copy()
    forced = np.full(len(tokens), -1)
    if step == 0 and rules.forced_start_id is not None:
        forced[:] = rules.forced_start_id
    if rules.forced_end_id is not None:
        forced[np.repeat(beams.limits == step + 1, rules.num_beams)] = rules.forced_end_id
    only = forced >= 0
    scores[only], ids[only, 0] = -np.inf, forced[only]
    scores[only, 0] = 0
    return Candidates(ids=ids, scores=scores), state


def _advance(beams: _Beams, candidates: Candidates, step: int, rules: Generation) -> Ids:
    """Go one token on, and return which beam each running output continues: (I, N)."""
    num_items, num_beams = beams.running_scores.shape
    totals = candidates.scores.reshape(num_items, num_beams, -1) + beams.running_scores[:, :, None]
    width = totals.shape[2]
    best = np.argsort(-totals.reshape(num_items, -1), axis=1, kind="stable")[:, : 2 * num_beams]
    scores = np.take_along_axis(totals.reshape(num_items, -1), best, 1)
    tokens = np.take_along_axis(candidates.ids.reshape(num_items, -1), best, 1)
    from_beam = best // width
    outputs = np.take_along_axis(beams.running, from_beam[:, :, None], 1)
    outputs[:, :, step + 1] = tokens
    ends = np.isin(tokens, rules.end_ids) | (beams.limits == step + 1)[:, None]
    _finish(beams, outputs, scores, ends, step, rules)
    running_scores = scores + ends * _NEVER
    kept = np.argsort(-running_scores, axis=1, kind="stable")[:, :num_beams]
    beams.running = np.take_along_axis(outputs, kept[:, :, None], 1)
    beams.running_scores = np.take_along_axis(running_scores, kept, 1)
    return np.take_along_axis(from_beam, kept, 1)


def _finish(
    beams: _Beams, outputs: Ids, scores: Floats, ends: npt.NDArray[np.bool_], step: int, rules: Generation
) -> None:
    """Keep the best finished outputs: only the first N candidates count, and none where all beams are full."""
    num_beams = rules.num_beams
    just_ended = ends & (np.arange(scores.shape[1]) < num_beams)
    scores = scores / np.float32((step + 1) ** rules.length_penalty)
    if rules.early_stopping == "true":
        scores = scores + _NEVER * beams.is_finished.all(axis=1, keepdims=True).astype(np.float32)
    scores = scores + _NEVER * (~beams.may_improve[:, None]).astype(np.float32)
    scores = scores + _NEVER * (~just_ended).astype(np.float32)
    merged_scores = np.concatenate([beams.finished_scores, scores], axis=1)
    kept = np.argsort(-merged_scores, axis=1, kind="stable")[:, :num_beams]
    lengths = np.full(scores.shape, step + 1)
    beams.finished_scores = np.take_along_axis(merged_scores, kept, 1)
    beams.finished = np.take_along_axis(np.concatenate([beams.finished, outputs], axis=1), kept[:, :, None], 1)
    beams.finished_lengths = np.take_along_axis(np.concatenate([beams.finished_lengths, lengths], axis=1), kept, 1)
    beams.is_finished = np.take_along_axis(np.concatenate([beams.is_finished, just_ended], axis=1), kept, 1)


def _are_done(beams: _Beams, step: int, rules: Generation) -> npt.NDArray[np.bool_]:
    """Say which items cannot become better, by transformers' estimate."""
    if rules.early_stopping == "never" and rules.length_penalty > 0:
        lengths = beams.limits.astype(np.float32)
    else:
        lengths = np.full(len(beams.limits), step + 1, np.float32)
    possible = beams.running_scores[:, 0] / lengths ** np.float32(rules.length_penalty)
    worst = np.where(beams.is_finished, beams.finished_scores.min(axis=1, keepdims=True), _NEVER)
    beams.may_improve = beams.may_improve & (possible[:, None] > worst).any(axis=1)
    is_full = beams.is_finished.all(axis=1) if rules.early_stopping == "true" else np.zeros(len(beams.limits), bool)
    done: npt.NDArray[np.bool_] = ~beams.may_improve | is_full | (beams.limits == step + 1)
    return done
