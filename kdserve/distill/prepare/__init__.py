"""From a recipe to its run: texts, teacher and student are gathered, and the task is chosen."""

from __future__ import annotations

from pathlib import Path

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.prepare.classification import prepare_classifier
from kdserve.distill.prepare.embedding import prepare_embedder
from kdserve.distill.prepare.translation import prepare_writer
from kdserve.distill.run import Run
from kdserve.recipe import Recipe, SequenceRecipe

__all__ = ["prepare"]


def prepare(
    recipe: Recipe | SequenceRecipe, work: Path, *, cache: Path | None = None, progress: Progress = no_progress
) -> Run:
    """Make everything below `work` that the recipe's training takes, or open what stands there.

    `cache` (default: inside `work`) keeps the teacher's vectors, or what it wrote, for other runs. Of several processes
    the first one makes what the others then open.

    Raises:
        KdserveError: see the rooms.
    """
    work.mkdir(parents=True, exist_ok=True)
    if isinstance(recipe, SequenceRecipe):
        return prepare_writer(recipe, work, cache=cache, progress=progress)
    make = prepare_classifier if recipe.classifier else prepare_embedder
    return make(recipe, work, cache, progress)
