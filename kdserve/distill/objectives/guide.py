"""A smaller student that helps to teach a larger one, less and less: Qin et al. 2022 (knowledge inheritance).

Letters: B batch, T tokens, D width of the embedding.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.distill.data.vocabulary import read_vocabulary
from kdserve.distill.objectives.vectors import cosine_loss
from kdserve.distill.students.embedder import Student
from kdserve.distill.students.folder import open_student
from kdserve.errors import RecipeError
from kdserve.recipe import GuideRecipe, Recipe, StudentRecipe


class Guide:
    """1 - cosine to the small student's vector of the same text, in every language; the weight falls to zero."""

    def __init__(self, settings: GuideRecipe, small: Student, *, steps: int) -> None:
        self.settings, self.small = settings, small.eval().requires_grad_(False)
        self.num_steps = max(1.0, settings.until * steps)

    def weight_at(self, step: int) -> float:
        """Return the weight at a step: `weight` at the first, zero from `until` on."""
        return self.settings.weight * max(0.0, 1.0 - step / self.num_steps)

    def losses(
        self, ids_BT: Tensor, mask_BT: Tensor, student_BD: Tensor, *, step: int
    ) -> dict[str, tuple[float, Tensor]]:
        """Return {"guide": (weight, loss)}, or nothing once its time is over."""
        weight = self.weight_at(step)
        if weight == 0:
            return {}
        with torch.no_grad():
            small_BD = self.small.to(ids_BT.device)(ids_BT, mask_BT).vectors_BD.float()
        return {"guide": (weight, cosine_loss(student_BD, small_BD))}


def start_guide(recipe: Recipe, student: Student, tokenizer: Tokenizer, *, dim: int) -> Guide | None:
    """Return the recipe's guide, if it names one.

    Raises:
        RecipeError: the guide reads another vocabulary, gives vectors of another width, or is of the other family.
    """
    if not recipe.guide.student:
        return None
    folder = Path(recipe.data_dir) / recipe.guide.student
    small = open_student(folder, StudentRecipe(max_tokens=recipe.student.max_tokens))
    if small.wraps != student.wraps:
        raise RecipeError(f"guide.student {folder} is not of family {recipe.family}; choose one that is")
    if read_vocabulary(folder, key="guide.student").get_vocab() != tokenizer.get_vocab():
        raise RecipeError(
            f"guide.student {folder} has another vocabulary than the student; set vocabulary.folder to {folder}, "
            "or student.start to a student grown from it"
        )
    require_dim(small, folder, dim=dim)
    return Guide(recipe.guide, small, steps=recipe.train.steps)


@torch.no_grad()
def require_dim(student: Student, folder: Path, *, dim: int) -> None:
    """Refuse a student whose vectors are not as wide as the teacher's.

    Raises:
        RecipeError: says both widths.
    """
    ids = torch.ones(1, 1, dtype=torch.long)
    found = student.eval()(ids, ids).vectors_BD.shape[1]
    if found != dim:
        raise RecipeError(f"{folder} gives vectors of {found}, the teacher of {dim}; name the teacher that it had")
