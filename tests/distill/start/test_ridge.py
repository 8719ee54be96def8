from __future__ import annotations

import numpy as np
import torch

from kdserve.distill.data.tokens import TokenStore
from kdserve.distill.start import ridge


def test_the_solve_equals_the_dense_normal_equations(monkeypatch):
    monkeypatch.setattr(ridge, "_CHUNK_ROWS", 7)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 6, size=40)
    ids = rng.integers(0, 12, size=lengths.sum()).astype(np.int32)
    tokens = TokenStore(ids=ids, offsets=np.concatenate([[0], np.cumsum(lengths)]))
    texts = rng.permutation(40)[:30].astype(np.int64)
    weights = rng.random(30).astype(np.float32) + 0.5
    targets = torch.from_numpy(rng.normal(size=(30, 5)).astype(np.float32))
    start = torch.from_numpy(rng.normal(size=(12, 5)).astype(np.float32))
    damping = torch.linspace(0.05, 2, 12)
    solved = ridge.solve_ridge(
        tokens, texts, weights, lambda p: targets[torch.from_numpy(p)], start=start, damping=damping, iterations=60
    )
    counts = np.zeros((30, 12))
    for row, text in enumerate(texts):
        for token in ids[tokens.offsets[text] : tokens.offsets[text + 1]]:
            counts[row, token] += 1 / lengths[text]
    left = counts.T @ (weights[:, None] * counts) + np.diag(damping.numpy())
    right = counts.T @ (weights[:, None] * targets.numpy()) + damping[:, None].numpy() * start.numpy()
    np.testing.assert_allclose(solved.numpy(), np.linalg.solve(left, right), atol=2e-4)


def test_the_pull_of_texts_is_their_part_of_the_diagonal():
    tokens = TokenStore(ids=np.array([0, 1, 2, 0], dtype=np.int32), offsets=np.array([0, 2, 4]))
    pull = ridge.token_pull(tokens, np.array([0, 1]), np.array([1.0, 3.0], dtype=np.float32), 4)
    assert pull.tolist() == [0.25 + 0.75, 0.25, 0.75, 0]
