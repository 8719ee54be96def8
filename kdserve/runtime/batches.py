"""Token ids to batches whose shapes depend on each text alone.

B batch, T tokens
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import TokenBatch

PackedIds = bytes
"""The token ids of one text as int32, which are joined and laid out faster than a list of Python's numbers."""
ID_BYTES = 4
_STEPS = ((32, 4), (64, 8), (128, 16), (512, 32))


def canonical_length(num_tokens: int) -> int:
    """Return the padded length of a text: the next step of a fixed ladder, so it depends on the text alone.

    Steps are 4 up to 32 tokens, 8 up to 64, 16 up to 128, 32 up to 512 and 64 beyond: at most 4 tokens, or an eighth,
    are padding.
    """
    step = next((step for limit, step in _STEPS if num_tokens <= limit), 64)
    return max(step, -(-num_tokens // step) * step)


def pack_ids(ids: Sequence[Sequence[int]]) -> list[PackedIds]:
    """Pack the token ids of each text, of which none is beyond 31 bits."""
    return [array("i", text).tobytes() for text in ids]


def make_batches(
    packed: Sequence[PackedIds], *, max_batch_tokens: int, pad_id: int
) -> Iterator[tuple[npt.NDArray[np.int64], TokenBatch]]:
    """Group texts of one canonical length into batches of at most `max_batch_tokens`, at least one text each.

    Yields (positions (B,) in `packed`, batch (B, T)), shortest texts first.
    """
    flat = np.frombuffer(b"".join(packed), np.int32)
    if len(packed) == 1:  # one text a call is common, and sorting it would take longer than small graphs do
        yield np.zeros(1, np.int64), _padded(flat, [0], [len(flat)], canonical_length(len(flat)), pad_id)
        return
    sizes = np.fromiter(map(len, packed), np.int64, len(packed)) // ID_BYTES
    firsts = np.cumsum(sizes) - sizes
    different, which = np.unique(sizes, return_inverse=True)
    widths = np.array([canonical_length(size) for size in different.tolist()], np.int64)[which]
    order = np.argsort(widths, kind="stable")
    starts = np.flatnonzero(np.diff(widths[order], prepend=-1))
    for positions in np.split(order, starts[1:]) if len(packed) else []:
        width = int(widths[positions[0]])
        num_rows = max(1, max_batch_tokens // width)
        for start in range(0, len(positions), num_rows):
            rows = positions[start : start + num_rows]
            yield rows, _padded(flat, firsts[rows], sizes[rows], width, pad_id)


def _padded(
    flat: npt.NDArray[np.int32], firsts: npt.ArrayLike, sizes: npt.ArrayLike, width: int, pad_id: int
) -> TokenBatch:
    """The texts of `sizes` tokens that begin at `firsts` in `flat`, side by side."""
    places = np.arange(width)
    is_token = places < np.asarray(sizes)[:, None]
    padded = np.full(is_token.shape, pad_id, dtype=np.int64)
    padded[is_token] = flat[(places + np.asarray(firsts)[:, None])[is_token]]
    return TokenBatch(ids=padded, mask=is_token.astype(np.int64))
