"""Token ids in, token ids out: batches, their order, and the threads that they run on.

B rows, S source tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kdserve.runtime.batches import canonical_length, make_batches, pack_ids
from kdserve.runtime.sequence.beams import beam_search
from kdserve.runtime.sequence.greedy import Written, greedy
from kdserve.runtime.sequence.numbers import Kept
from kdserve.runtime.sequence.session import DecoderState, SequenceSession, source_length
from kdserve.runtime.sequence.settings import Generation
from kdserve.runtime.session import Device

_ROWS = 64
_ENCODED_TOKENS = 1024
_GROWTH, _ROOM = 3, 10
"""An output has at most so many times its source's tokens, and so many more: what is longer has lost its way."""


class Writer:
    """Both graphs of a bundle and the search over them.

    One source has one output, whatever stands beside it: the encoder's batches hold sources of one padded length, which
    depends on the source alone, the decoder's padding adds zeros (`source_length`), and every sum runs over one row.
    """

    def __init__(self, folder: Path, *, device: Device, num_threads: int) -> None:
        """Open the graphs. Raises as `SequenceSession`."""
        self._session = SequenceSession(folder, device=device)
        self._num_threads = num_threads

    def write(
        self,
        ids: Sequence[Sequence[int]],
        rules: Generation,
        *,
        limit: int,
        pad_id: int,
        vocabulary: int,
        grow: int = _GROWTH,
        kept: Kept | None = None,
    ) -> Written:
        """Return an output for each source, of at most `limit` tokens, and of `grow` for each of its own, 0 for any.

        `kept` has the sources' numbers, where they are to be kept.
        """
        batches = _batches(ids, max(1, _ROWS // rules.num_beams))
        search = beam_search if rules.num_beams > 1 else greedy

        def run(rows: Sequence[int]) -> Written:
            sources = [ids[row] for row in rows]
            limits = np.array([min(limit, grow * len(own) + _ROOM) if grow else limit for own in sources])
            state, own = self._read(sources, pad_id), kept and kept.of(rows)
            return search(self._session, state, limits, rules, vocabulary=vocabulary, kept=own)

        if self._num_threads == 1 or len(batches) <= 1:
            found = [run(rows) for rows in batches]
        else:
            with ThreadPoolExecutor(min(self._num_threads, len(batches))) as pool:
                found = list(pool.map(run, batches))
        outputs: list[list[int]] = [[] for _ in ids]
        is_cut = [False] * len(ids)
        candidates: list[list[list[int]]] = [[] for _ in ids]
        for rows, written in zip(batches, found, strict=True):
            for place, row in enumerate(rows):
                outputs[row], is_cut[row] = written.ids[place], written.is_cut[place]
                if written.candidates:
                    candidates[row] = written.candidates[place]
        return Written(ids=outputs, is_cut=is_cut, candidates=candidates if rules.num_beams > 1 else [])

    def _read(self, sources: Sequence[Sequence[int]], pad_id: int) -> DecoderState:
        """Encode the sources of one decoder's batch, each at its own padded length."""
        width = source_length(canonical_length(max(map(len, sources))))
        mask = np.zeros((len(sources), width), np.int32)
        parts: list[np.ndarray] = []
        for places, batch in make_batches(pack_ids(sources), max_batch_tokens=_ENCODED_TOKENS, pad_id=pad_id):
            read = self._session.encode(batch)
            parts = parts or [np.zeros((len(sources), one.shape[1], width, one.shape[3]), np.float32) for one in read]
            length = batch.ids.shape[1]
            mask[places, :length] = batch.mask
            for part, one in zip(parts, read, strict=True):
                part[places, :, :length] = one
        return self._session.begin(parts, mask)


def _batches(ids: Sequence[Sequence[int]], num_rows: int) -> list[list[int]]:
    """Group sources so that none has more than twice the padding of one alone, the longest first: they take longest."""
    batches: list[list[int]] = []
    for row in sorted(range(len(ids)), key=lambda row: (-len(ids[row]), row)):
        last = batches[-1] if batches else []
        if last and len(last) < num_rows and 2 * source_length(len(ids[row])) >= source_length(len(ids[last[0]])):
            last.append(row)
        else:
            batches.append([row])
    return batches
