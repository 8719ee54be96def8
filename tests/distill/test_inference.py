"""A model over many texts: batches that memory holds, results in the texts' order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kdserve.distill.data.tokens import TokenStore
from kdserve.distill.students.inference import run_over


def test_batches_hold_few_tokens_and_every_text_has_its_own_result() -> None:
    lengths = np.random.default_rng(0).permutation(np.r_[np.full(600, 3), np.full(200, 256), 20_000])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = TokenStore(ids=np.ones(offsets[-1], np.int32), offsets=offsets)
    shapes = []

    def forward(ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        shapes.append(tuple(ids_BT.shape))
        return mask_BT.sum(dim=1, keepdim=True)

    chosen = np.arange(len(lengths))[::-1].copy()
    found = run_over(nn.Linear(1, 1), forward, tokens, chosen, wrap=False)
    assert torch.equal(found[:, 0], torch.from_numpy(lengths[chosen]).float())
    assert all(rows <= 256 and (rows == 1 or rows * width <= 16_384) for rows, width in shapes)
    assert len(shapes) < 10
