"""Token ids to batches that pad each text as far as its own length says, or further where that changes no bit.

B batch, T tokens
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from kdserve.datatypes import TokenBatch

PackedIds = bytes
"""The token ids of one text as int32, which are joined and laid out faster than a list of Python's numbers."""
ID_BYTES = 4
_STEPS = ((32, 4), (64, 8), (128, 16), (512, 32))


@lru_cache(4096)
def canonical_length(num_tokens: int) -> int:
    """Return the padded length of a text: the next step of a fixed ladder, so it depends on the text alone.

    Steps are 4 up to 32 tokens, 8 up to 64, 16 up to 128, 32 up to 512 and 64 beyond: at most 3 tokens, or less than a
    fifth, are padding.
    """
    step = next((step for limit, step in _STEPS if num_tokens <= limit), 64)
    return max(step, -(-num_tokens // step) * step)


def pack_ids(ids: Sequence[Sequence[int]]) -> list[PackedIds]:
    """Pack the token ids of each text, of which none is beyond 31 bits."""
    return [array("i", text).tobytes() for text in ids]


def make_batches(
    packed: Sequence[PackedIds], *, max_batch_tokens: int, pad_id: int, spare_tokens: int = 0
) -> Iterator[tuple[list[int], TokenBatch]]:
    """Group texts of one canonical length into batches of at most `max_batch_tokens`, at least one text each.

    Where padding adds nothing but zeros to a text's sum, texts go with the next longer ones if that takes no more than
    `spare_tokens` of padding. Yields (B positions in `packed`, batch (B, T)), shortest texts first. A few texts a call
    are common, for which numpy's sorting would take longer than small graphs do.
    """
    by_width: dict[int, list[int]] = {}
    for place, text in enumerate(packed):
        by_width.setdefault(canonical_length(len(text) // ID_BYTES), []).append(place)
    groups: list[tuple[int, list[int]]] = []
    for width in sorted(by_width):
        places = by_width[width]
        if groups and len(groups[-1][1]) * (width - groups[-1][0]) <= spare_tokens:
            places = groups.pop()[1] + places
        groups.append((width, places))
    for width, places in groups:
        num_rows = max(1, max_batch_tokens // width)
        for start in range(0, len(places), num_rows):
            rows = places[start : start + num_rows]
            yield rows, _padded([packed[row] for row in rows], width, pad_id)


def _padded(texts: Sequence[PackedIds], width: int, pad_id: int) -> TokenBatch:
    """The texts side by side, each with padding behind it."""
    padding = array("i", [pad_id]).tobytes() * width
    marks = b"\1" * width + b"\0" * width
    ids = b"".join([text + padding[len(text) :] for text in texts])
    mask = b"".join([marks[(skipped := width - len(text) // ID_BYTES) : skipped + width] for text in texts])
    shape = len(texts), width
    return TokenBatch(
        ids=np.frombuffer(ids, np.int32).astype(np.int64).reshape(shape),
        mask=np.frombuffer(mask, np.int8).astype(np.int64).reshape(shape),
    )
