"""The search student's stage for a GPU: texts as rows of tokens, and what the student should say of them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"))
import search_stage as stage  # noqa: E402


def test_rows_have_prompt_and_edges_of_their_role_and_are_cut():
    ids = np.arange(100, 700, dtype=np.int32)
    rows, lengths = stage.wrap(ids, np.array([0, 5]), np.array([2, 500]), np.array([False, True]), ((7,), (8, 9)))
    assert rows[:5].tolist() == [stage.CLS, 7, 100, 101, stage.SEP]
    assert lengths.tolist() == [5, stage.MOST_TOKENS]
    assert rows[5:9].tolist() == [stage.CLS, 8, 9, 105]
    assert rows[-2:].tolist() == [105 + stage.MOST_TOKENS - 5, stage.SEP]


def test_what_only_tells_languages_apart_is_in_no_target():
    """Three languages of the same 40 sentences, each with a shift of its own, under two prompts."""
    generator = torch.Generator().manual_seed(0)
    meaning = torch.randn(40, 24, generator=generator)
    shift = torch.randn(3, 24, generator=generator)
    language = np.tile(np.arange(3), 40)
    sentence = np.repeat(np.arange(40), 3)
    vectors = torch.nn.functional.normalize(0.3 * meaning[sentence] + shift[language], dim=-1)
    texts = stage.Texts(
        flat=torch.zeros(120, dtype=torch.long),
        starts=torch.arange(120),
        lengths=np.ones(120, np.int64),
        language=language,
        query=sentence % 2 == 0,
        group=sentence,
        wiki=np.zeros(120, bool),
        everyday=np.zeros(120, bool),
    )

    def right(found: torch.Tensor) -> float:
        """Share of texts whose nearest other text says the same."""
        near = (found @ found.T).fill_diagonal_(-1).argmax(dim=1).numpy()
        return float((sentence[near] == sentence).mean())

    assert right(vectors) < 0.3
    assert right(stage.make_targets(texts, stage.neutral(texts, vectors))) > 0.95
