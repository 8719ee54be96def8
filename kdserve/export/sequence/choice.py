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
    blocks, width = size // block, graph.scalar(block, np.int64)
    by_block = graph.add("Reshape", scores, graph.vector(0, blocks, block))
    highest = graph.add("ReduceMax", by_block, graph.vector(2), keepdims=0)
    taken = graph.add("Min", num_best, graph.vector(blocks))
    chosen = graph.add_all("TopK", highest, taken, outputs=2)[1]
    gathered = graph.add("GatherND", by_block, graph.add("Unsqueeze", chosen, graph.vector(2)), batch_dims=1)
    values, places = graph.add_all("TopK", graph.add("Reshape", gathered, graph.vector(0, -1)), num_best, outputs=2)
    owner = graph.add("GatherElements", chosen, graph.add("Div", places, width), axis=1)
    inside = graph.add("Mod", places, width)
    return [values, graph.add("Add", graph.add("Mul", owner, width), inside)]


def _block(size: int) -> int:
    """The largest handy divisor; 0: there is none."""
    return next((width for width in range(_LARGEST, _SMALLEST - 1, -1) if size % width == 0), 0)
