"""The best of a vocabulary by its blocks: what one search over all of it finds."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from kdserve.export.graphs.builder import GraphBuilder
from kdserve.export.sequence.choice import best_scores
from kdserve.runtime.session import open_graph


@pytest.mark.parametrize("size", [640, 1000, 331])
@pytest.mark.parametrize("num_best", [1, 8, 300])
def test_blocks_find_the_best_of_all(size: int, num_best: int) -> None:
    graph = GraphBuilder()
    values, places = best_scores(graph, "scores", size=size, num_best="num_best")
    model = graph.close(
        "best",
        {"scores": (TensorProto.FLOAT, ("rows", size)), "num_best": (TensorProto.INT64, (1,))},
        {"values": (TensorProto.FLOAT, ("rows", "best")), "places": (TensorProto.INT64, ("rows", "best"))},
        {"values": values, "places": places},
    )
    scores = np.random.default_rng(size).permuted(np.tile(np.arange(size, dtype=np.float32), (5, 1)), axis=1)
    found = open_graph(model.SerializeToString()).run(None, {"scores": scores, "num_best": np.array([num_best])})
    assert np.array_equal(found[1], np.argsort(-scores, axis=1)[:, :num_best])
    assert np.array_equal(found[0], np.take_along_axis(scores, found[1], 1))
