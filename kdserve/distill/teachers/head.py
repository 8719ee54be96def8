"""A linear head on vectors: logistic regression with an L2 penalty chosen on development texts.

Letters: N texts, D width of the vectors, K labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

PENALTIES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
"""Weights of the squared norm beside the mean cross-entropy: all of them are tried."""
_FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """`vectors @ weight_DK + bias_K` are the logits."""

    weight_DK: Tensor
    bias_K: Tensor

    def logits(self, vectors_ND: Tensor) -> Tensor:
        """(N, K)."""
        return vectors_ND @ self.weight_DK + self.bias_K


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledVectors:
    """Vectors (N, D) and the numbers of their labels (N,)."""

    vectors_ND: Tensor
    label_N: Tensor

    @classmethod
    def of(cls, vectors: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> LabelledVectors:
        """Wrap arrays."""
        return cls(vectors_ND=torch.from_numpy(vectors), label_N=torch.from_numpy(labels))


def fit_head(train: LabelledVectors, num_labels: int, *, development: LabelledVectors | None = None) -> Head:
    """Fit a head for each penalty and return the one with the lowest cross-entropy on other texts.

    Those are `development`, or every fifth of `train` where there is none; the head is then fitted on all of `train`.
    """
    if development is not None:
        heads = [_fit(train, num_labels, penalty) for penalty in PENALTIES]
        return min(heads, key=lambda head: _loss(head, development))
    held = torch.arange(len(train.label_N)) % _FOLDS == 0
    parts = [LabelledVectors(vectors_ND=train.vectors_ND[rows], label_N=train.label_N[rows]) for rows in (~held, held)]
    losses = {penalty: _loss(_fit(parts[0], num_labels, penalty), parts[1]) for penalty in PENALTIES}
    return _fit(train, num_labels, min(losses, key=losses.__getitem__))


def _fit(train: LabelledVectors, num_labels: int, penalty: float) -> Head:
    weight = torch.zeros(train.vectors_ND.shape[1], num_labels, requires_grad=True)
    bias = torch.zeros(num_labels, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(train.vectors_ND @ weight + bias, train.label_N)
        loss = loss + penalty * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Head(weight_DK=weight.detach(), bias_K=bias.detach())


def _loss(head: Head, texts: LabelledVectors) -> float:
    return float(functional.cross_entropy(head.logits(texts.vectors_ND), texts.label_N))
