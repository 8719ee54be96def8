from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_students import tiny_plain

from kdserve.export.graphs.arithmetic import Float32
from kdserve.export.graphs.smoothing import smooth
from kdserve.export.graphs.transformer import transformer_graph
from kdserve.export.read.student import read_student
from kdserve.export.read.weights import TransformerWeights
from kdserve.export.texts import calibration_texts
from kdserve.runtime.session import open_graph
from kdserve.samples import documents, parallel, queries


class SmoothedFloat32(Float32):
    """Float32 that multiplies its left sides by smoothing factors: exact, were it not for rounding."""

    def __init__(self, factors: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.factors = factors

    def prepare(self, graph, x, name, *, lowest=None):
        if name in self.factors:
            x = graph.add("Mul", x, graph.constant(name, self.factors[name]))
        return super().prepare(graph, x, name, lowest=lowest)


@pytest.mark.parametrize("alpha", [0.3, 0.8])
@pytest.mark.parametrize("family", ["bert", "t5-gated", "modernbert-biases"])
def test_smoothing_changes_no_vector_before_rounding(family: str, alpha: float, tmp_path: Path) -> None:
    weights = read_student(tiny_plain(tmp_path / "student", family=family)).weights
    assert isinstance(weights, TransformerWeights)
    rng = np.random.default_rng(0)
    arithmetic = Float32()
    plain = transformer_graph(weights, arithmetic, table_bits=32)
    largest = {}
    for index, layer in enumerate(weights.layers):
        inputs = {
            "attention_input": layer.query,
            "attention_output_input": layer.attention_output,
            "up_input": layer.up,
        }
        for name, linear in inputs.items():
            largest[f"layer{index}.{name}"] = rng.uniform(0.1, 20, len(linear.weight)).astype(np.float32)
    assert set(largest) < set(arithmetic.probes)
    moved, factors, bounds = smooth(weights, largest, alpha)
    smoothed = transformer_graph(moved, SmoothedFloat32(factors), table_bits=32)
    ids = rng.integers(0, 1200, (3, 12))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    before, after = (open_graph(model.SerializeToString()).run(None, feeds)[0] for model in (plain, smoothed))
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert set(bounds) == {name for name in largest if "attention_output" not in name}


def test_factors_that_a_norm_can_carry_cost_no_node(tmp_path: Path) -> None:
    weights = read_student(tiny_plain(tmp_path / "student", family="modernbert")).weights
    assert isinstance(weights, TransformerWeights)
    arithmetic = Float32()
    transformer_graph(weights, arithmetic, table_bits=32)
    largest = {name: np.ones(96 if "down" in name else 64, dtype=np.float32) for name in arithmetic.probes}
    _, factors, _ = smooth(weights, largest, 0.5)
    assert list(factors) == ["layer0.attention_input"]  # the first layer has no norm before it


def test_calibration_texts_are_apart_from_each_other_and_from_the_samples() -> None:
    texts = calibration_texts(["en", "de", "ja"])
    judged = {text for sentences in parallel().values() for text in sentences}
    judged |= {sample.text for sample in (*documents(), *queries())}
    assert not set(texts.ranges) & set(texts.development)
    assert not (set(texts.ranges) | set(texts.development)) & judged
    assert len(texts.development) > 30


def test_an_unknown_language_calibrates_on_all_languages_of_the_samples() -> None:
    assert calibration_texts(["xx"]) == calibration_texts(list(parallel()))
