"""Running means of the losses, for the log."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdserve.errors import TrainingError


class LossMeans:
    """Running means of the losses since the last report; they stay on the device until they are asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """Count the values of one step in."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += 1

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps, so that a run that goes on reports the same means."""
        return {"count": torch.tensor(self.count), **{f"sums.{name}": value for name, value in self.sums.items()}}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a state, on the device where it is; from an empty one, anew."""
        self.count = int(state.get("count", 0))
        self.sums = {name.removeprefix("sums."): value for name, value in state.items() if name != "count"}

    def take(self, step: int) -> dict[str, float]:
        """Return the means and start anew.

        Raises:
            TrainingError: one of them is NaN.
        """
        means = {name: float(value) / max(1, self.count) for name, value in self.sums.items()}
        if not all(np.isfinite(value) for value in means.values()):
            raise TrainingError(f"the loss is NaN before step {step}; lower train.body_rate or table_rate, or use fp32")
        self.sums, self.count = {}, 0
        return {name: round(value, 6) for name, value in means.items()}
