"""How much a server takes in at once: the bytes of all large bodies and replies, and the values of each body."""

from __future__ import annotations

import numpy as np

from kdserve.serve.refusals import Refusal
from kdserve.serve.settings import Limits

SMALL_BYTES = 65_536
"""Bodies and replies of up to so many are never refused for want of memory."""
LISTS_A_TEXT, STRINGS_A_TEXT = 8, 64
"""Lists (or objects) and strings that a body may have for each text that a request may have."""


class Bodies:
    """Room in memory for the large bodies of all requests under way, and for large replies until they are read."""

    def __init__(self, limits: Limits) -> None:
        self._most_bytes, self._held_bytes = max(limits.waiting_bytes, limits.body_bytes), 0

    def hold(self, num_bytes: int) -> None:
        """Take room. Raises Refusal where there is none; one alone always has it."""
        if self._held_bytes and self._held_bytes + num_bytes > self._most_bytes:
            message = f"bodies and replies of {self._held_bytes} bytes are under way; try again a little later"
            raise Refusal("overloaded", message, retry_s=1.0)
        self._held_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """Give room back."""
        self._held_bytes -= num_bytes


def require_few_values(body: bytes, limits: Limits) -> None:
    """Refuse a large body with far more in it than any request may have: to decode millions of empty lists holds up
    everybody else for half a second. What stands in texts does not count.

    Raises:
        Refusal: the body has too much.
    """
    lists, strings = LISTS_A_TEXT * limits.texts, STRINGS_A_TEXT * limits.texts
    values = strings + limits.tokens
    if len(body) <= SMALL_BYTES or _has_few(body, lists, values):
        return
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if _count(unescaped, b'"') <= 2 * strings and _has_few(b"".join(unescaped.split(b'"')[::2]), lists, values):
        return
    message = f"the body has more than {lists} lists, {strings} strings or {values} values; send fewer a request"
    raise Refusal("too_large", message)


def _has_few(body: bytes, lists: int, values: int) -> bool:
    return _count(body, b"[") + _count(body, b"{") <= lists and _count(body, b",") <= values


def _count(body: bytes, character: bytes) -> int:
    """Count a character; `bytes.count` takes several times as long where there are many."""
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord(character)))
