"""What every training loop is told, whatever its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdserve.toml import require

_LOOP_RANGES = {
    "steps": "[0, inf)",
    "batch_size": "[2, inf)",
    "warmup": "[0, 1]",
    "weight_decay": "[0, inf)",
    "average": "[0, 1)",
    "cycles": "[1, inf)",
    "clip": "[0, inf)",
    "evaluate_every": "[1, inf)",
    "checkpoint_every": "[1, inf)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRecipe:
    """The training loop, whatever the task.

    `average` is the decay of the exponential average of weights that is kept as the student (0 = off). Over each of
    `cycles` the rates rise and fall once; with more than one, the mean of the weights at their ends, and of
    `student.start`, is kept.
    """

    steps: int = 1000
    batch_size: int = 128
    warmup: float = 0.05
    weight_decay: float = 0.0
    average: float = 0.0
    cycles: int = 1
    clip: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    evaluate_every: int = 500
    checkpoint_every: int = 500

    def require_loop(self) -> None:
        """Refuse numbers out of range, and cycles that do not divide the steps."""
        require(self, **_LOOP_RANGES)
        if self.steps % self.cycles:
            raise ValueError(f"cycles is {self.cycles}; it must divide steps, {self.steps}")
