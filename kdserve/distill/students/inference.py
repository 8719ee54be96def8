"""A model over many texts: in batches of like length, without gradients, as it will be used.

Letters: B batch, T tokens, N texts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdserve.distill.data.tokens import TokenStore
from kdserve.distill.students.embedder import Student

_TEXTS, _TOKENS = 256, 16_384
"""A batch has no more; a teacher's memory goes with the tokens."""


def embed_texts(student: Student, tokens: TokenStore, texts: npt.NDArray[np.int64], *, queries: bool = True) -> Tensor:
    """Embed texts by their numbers, as queries or as documents: (N, D) on the CPU, in their order."""
    return run_over(
        student, lambda ids, mask: student(ids, mask).vectors_BD, tokens, texts, wrap=student.wraps, queries=queries
    )


@torch.no_grad()
def run_over(
    model: nn.Module,
    forward: Callable[[Tensor, Tensor], Tensor],
    tokens: TokenStore,
    texts: npt.NDArray[np.int64],
    *,
    wrap: bool,
    queries: bool = True,
) -> Tensor:
    """Return what `forward` gives for each of these texts, in their order, on the CPU; `model` is what it calls."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    lengths = tokens.lengths[texts]
    order, parts, begin = np.argsort(lengths, kind="stable"), [], 0
    while begin < len(order):
        widths = lengths[order[begin : begin + _TEXTS]]
        fit = int((widths * np.arange(1, len(widths) + 1) <= _TOKENS).sum())
        chosen = texts[order[begin : begin + max(1, fit)]]
        begin += len(chosen)
        ids, mask = tokens.padded(chosen, wrap=wrap, queries_B=np.full(len(chosen), queries))
        parts.append(forward(ids.to(device), mask.to(device)).float().cpu())
    model.train(was_training)
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]
