"""The best of a whole vocabulary, found by its blocks.

B rows, V vocabulary, N blocks, K asked for
"""

from __future__ import annotations

import numpy as np

from kdserve.export.graphs.builder import GraphBuilder

_LARGEST, _SMALLEST = 160, 32


def best_scores(graph: GraphBuilder, scores: str, *, size: int, num_best: str) -> list[str]:
    """Name the K best of each row of `scores` (B, V = `size`), best first, and their places, both (B, K).

    The K best lie in the K blocks with the highest maxima, which are quickly found: `TopK` over V numbers takes two to
    five times as long. Where scores are equal, the first of a block comes first, and the better block.
    """
    block = _block(size)
    if not block:
        return graph.add_all("TopK", scores, num_best, outputs=2)
    blocks = size // block
    by_block = graph.add("Reshape", scores, graph.vector(0, blocks, block))
    highest = graph.add("ReduceMax", by_block, graph.vector(2), keepdims=0)
    taken = graph.add("Min", num_best, graph.vector(blocks))
    chosen = graph.add("Unsqueeze", graph.add_all("TopK", highest, taken, outputs=2)[1], graph.vector(2))
    inside = graph.constant(f"places_{block}", np.arange(block, dtype=np.int64))
    places = graph.add("Add", graph.add("Mul", chosen, graph.scalar(block, np.int64)), inside)
    places = graph.add("Reshape", places, graph.vector(0, -1))
    values, order = graph.add_all("TopK", graph.add("GatherElements", scores, places, axis=1), num_best, outputs=2)
    return [values, graph.add("GatherElements", places, order, axis=1)]


def _block(size: int) -> int:
    """The largest handy divisor; 0: there is none."""
    return next((width for width in range(_LARGEST, _SMALLEST - 1, -1) if size % width == 0), 0)
