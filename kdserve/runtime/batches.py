"""Token ids to batches whose shapes depend on each text alone.

B batch, T tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import TokenBatch

_STEPS = ((32, 4), (64, 8), (128, 16), (512, 32))


def canonical_length(num_tokens: int) -> int:
    """Return the padded length of a text: the next step of a fixed ladder, so it depends on the text alone.

    Steps are 4 up to 32 tokens, 8 up to 64, 16 up to 128, 32 up to 512 and 64 beyond: at most 4 tokens, or an eighth,
    are padding.
    """
    step = next((step for limit, step in _STEPS if num_tokens <= limit), 64)
    return max(step, -(-num_tokens // step) * step)


def make_batches(
    ids: Sequence[Sequence[int]], *, max_batch_tokens: int, pad_id: int
) -> Iterator[tuple[npt.NDArray[np.int64], TokenBatch]]:
    """Group texts of one canonical length into batches of at most `max_batch_tokens`, at least one text each.

    Yields (positions (B,) in `ids`, batch (B, T)), shortest texts first.
    """
    if len(ids) == 1:  # one text a call is common, and sorting it would take longer than small graphs do
        yield np.zeros(1, np.int64), _pad(ids, canonical_length(len(ids[0])), pad_id)
        return
    lengths = np.fromiter((canonical_length(len(text)) for text in ids), dtype=np.int64, count=len(ids))
    order = np.argsort(lengths, kind="stable")
    starts = np.flatnonzero(np.diff(lengths[order], prepend=-1))
    for positions in np.split(order, starts[1:]) if len(ids) else []:
        width = int(lengths[positions[0]])
        num_rows = max(1, max_batch_tokens // width)
        for start in range(0, len(positions), num_rows):
            rows = positions[start : start + num_rows]
            yield rows, _pad([ids[row] for row in rows], width, pad_id)


def _pad(ids: Sequence[Sequence[int]], width: int, pad_id: int) -> TokenBatch:
    padded = np.full((len(ids), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(ids), width), dtype=np.int64)
    for row, text in enumerate(ids):
        padded[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return TokenBatch(ids=padded, mask=mask)
