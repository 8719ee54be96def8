"""Settings of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdserve.errors import RecipeError
from kdserve.precisions import Precision, named_precisions


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """How to store a student's weights, and what the gate lets pass.

    fp32 keeps everything. fp16 halves it, for GPUs. int8 rounds weights by channel and activations by token, with
    fixed scales behind norms. w8 and int4 round weights in blocks of 32. auto tries int8, w8 and fp32 and keeps the
    fastest that passes. dynamic-int8 is onnxruntime's way, whose vectors depend on the batch: only to compare with.

    The two floors are cosines between student and bundle: the mean over each language's texts (None: the precision's
    own), and the worst single text of all. `max_retrieval_loss` is in points, for every language of
    the evaluation files, where there are any. `languages` and `name` are those of a folder that does not say.

    The graph is written from the weights; with `optimum_python`, the Python of an environment that has optimum-onnx,
    that traces the body instead, in fp32.
    """

    precision: str = "int8"
    min_mean_cosine: float | None = None
    min_cosine: float = 0.985
    max_retrieval_loss: float = 0.3
    languages: tuple[str, ...] = ()
    name: str = ""
    optimum_python: Path | None = None

    def __post_init__(self) -> None:
        named_precisions(self.precision)
        for name, floor in (("min_mean_cosine", self.min_mean_cosine), ("min_cosine", self.min_cosine)):
            if floor is not None and not -1 <= floor <= 1:
                raise RecipeError(f"{name} is {floor}; a cosine lies between -1 and 1")
        if not self.max_retrieval_loss >= 0:
            raise RecipeError(f"max_retrieval_loss is {self.max_retrieval_loss}; give points, 0 or more")
        if self.optimum_python and self.precision != "fp32":
            raise RecipeError(f"optimum exports fp32 and not {self.precision}; choose --precision fp32")

    def mean_cosine_floor(self, precision: Precision) -> float:
        """The lowest mean cosine that any language may have in this precision."""
        return precision.floor if self.min_mean_cosine is None else self.min_mean_cosine
