"""The task of a training run. The loop around it is the `Trainer`'s and the same for every task.

Letters: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor, nn

from kdserve.distill.data.batches import Batch
from kdserve.distill.training.validation import Accuracy

Losses = dict[str, tuple[float, Tensor]]
"""The weight and the value of each part of the loss, by name."""
Autocast = Callable[[], AbstractContextManager[Any]]


class ParameterGroup(TypedDict):
    """Parameters that share a rate; `rate` is that at full speed."""

    params: list[nn.Parameter]
    rate: float
    weight_decay: float


class Task(Protocol):
    """One thing to learn: embeddings, labels, …"""

    @property
    def what(self) -> str:
        """Name of the task in progress."""

    @property
    def student(self) -> nn.Module:
        """Model that is trained and kept."""

    @property
    def beside(self) -> Mapping[str, nn.Module]:
        """Modules that are trained with it and left behind, by name."""

    def to(self, device: torch.device) -> None:
        """Move student and all beside it."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return what is trained; no group is empty."""

    def batches(self, *, start: int, stride: int, offset: int) -> Iterator[Batch]:
        """Yield the batches of process `offset` of `stride` from step `start` on: a pure function of seed and step."""

    def losses(self, model: nn.Module, batch: Batch, *, step: int, autocast: Autocast) -> Losses:
        """Return the parts of a batch's loss; `model` is the student as it is to be called while training."""

    def measure(self, step: int) -> Accuracy:
        """Measure the student as it is on what was held out.

        Raises:
            TrainingError: it is of no use any more (NaN, one vector for everything); says at which step.
        """
