"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kdserve.errors import RecipeError

Precision = Literal["fp32", "int8"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """How to store a student's weights, and what the gate lets pass.

    The two floors are cosines between student and bundle: the mean over each language's texts, and the worst single
    text of all.
    """

    precision: Precision = "int8"
    min_mean_cosine: float = 0.998
    min_cosine: float = 0.985

    def __post_init__(self) -> None:
        for name, floor in (("min_mean_cosine", self.min_mean_cosine), ("min_cosine", self.min_cosine)):
            if not -1 <= floor <= 1:
                raise RecipeError(f"{name} is {floor}; a cosine lies between -1 and 1")


def parse_precision(name: str) -> Precision:
    """Return the precision of that name.

    Raises:
        RecipeError: there is none.
    """
    precisions: tuple[Precision, ...] = get_args(Precision)
    for precision in precisions:
        if name == precision:
            return precision
    raise RecipeError(f"there is no precision {name!r}; choose one of {', '.join(precisions)}")
