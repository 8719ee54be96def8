"""The weights that a run keeps: as they were trained last, or means of them over time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdserve.distill.training.checkpoint import Tensors
from kdserve.recipe import LoopRecipe


class WeightAverages:
    """The exponential average over steps (`train.average`) and the mean over the ends of cycles (`train.cycles`).

    `starts_trained` counts the weights that training starts from among the ends of cycles.
    """

    def __init__(self, student: nn.Module, train: LoopRecipe, *, starts_trained: bool) -> None:
        self._student, self._decay, self._num_first = student, train.average, int(starts_trained)
        self._cycle_steps = max(1, train.steps // train.cycles)
        self._running = copy_weights(student) if train.average else {}
        self._cycles = copy_weights(student) if train.cycles > 1 else {}

    def count_step(self, step: int) -> None:
        """Count the weights after `step` steps in."""
        if self._running:
            weights = {name: value for name, value in self._student.named_parameters() if value.requires_grad}
            _blend(self._running, weights, min(self._decay, step / (9 + step)))
        if self._cycles and step % self._cycle_steps == 0:
            _blend(self._cycles, self._of_cycle(), 1 - 1 / (step // self._cycle_steps + self._num_first))

    def kept(self, step: int) -> Tensors:
        """Return the weights to be kept after `step` steps."""
        return self._cycles if self._cycles and step % self._cycle_steps == 0 else self._of_cycle()

    def state(self) -> Tensors:
        """Return what a checkpoint keeps."""
        parts = (("average", self._running), ("ends", self._cycles))
        return {f"{prefix}.{name}": value for prefix, part in parts for name, value in part.items()}

    def load_state(self, tensors: Tensors) -> None:
        """Go on from a state."""
        for prefix, part in (("average", self._running), ("ends", self._cycles)):
            for name, value in part.items():
                value.copy_(tensors[f"{prefix}.{name}"])

    def _of_cycle(self) -> Tensors:
        return self._running or self._student.state_dict()


def copy_weights(student: nn.Module) -> Tensors:
    """Return a copy of a module's weights."""
    return {name: value.detach().clone() for name, value in student.state_dict().items()}


@torch.no_grad()
def _blend(average: Tensors, weights: Mapping[str, Tensor], decay: float) -> None:
    """Move the average towards the weights."""
    names = [name for name, value in weights.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[n] for n in names], [weights[n] for n in names], 1 - decay)
