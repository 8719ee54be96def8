"""The integer grids that a token table can be stored in without further loss.

8 bits: one scale a row, integers -127 to 127. 4 bits: one scale a block of 32 along the width, integers -7 to 7.
Training sees the table through the grid (straight-through estimator, Bengio et al. 2013), so storing it costs nothing.
"""

from __future__ import annotations

from torch import Tensor

BLOCK = 32


def snap(rows: Tensor, *, bits: int) -> Tensor:
    """Round rows (..., D) to the grid of 4 or 8 bits."""
    if bits == 8:
        blocks, most = rows, 127.0
    else:
        blocks, most = rows.view(*rows.shape[:-1], -1, BLOCK), 7.0
    scale = (blocks.abs().amax(dim=-1, keepdim=True) / most).clamp_min(1e-12)
    return ((blocks / scale).round() * scale).view_as(rows)


def snap_straight_through(rows: Tensor, *, bits: int) -> Tensor:
    """Round rows to the grid; the gradient passes as if they had not been rounded."""
    return rows + (snap(rows, bits=bits) - rows).detach()
