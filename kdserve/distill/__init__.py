"""Make a student of a teacher: recipe in, student folder out.

The road: read the pairs, train the vocabulary, embed the source sentences with the teacher, solve the token table in
closed form, train, save. Everything that takes long is kept in a work folder beside the target and resumed from there.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from safetensors import SafetensorError

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.card import Outcome
from kdserve.distill.hardware import processes
from kdserve.distill.prepare import prepare
from kdserve.distill.prepare.translation import parent_folders
from kdserve.distill.run import Run
from kdserve.distill.students.folder import parent_students
from kdserve.distill.teachers.embedder import Teacher, load_teacher
from kdserve.errors import DataError, FolderError, MissingExtraError, RecipeError
from kdserve.locks import folder_lock
from kdserve.recipe import Recipe, SequenceRecipe

__all__ = ["Outcome", "Run", "Teacher", "distill", "load_teacher", "prepare"]


def distill(
    recipe: Recipe | SequenceRecipe,
    out: Path,
    *,
    work: Path | None = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Outcome:
    """Make the recipe's student and write it to `out`, a folder that SentenceTransformer opens, or transformers.

    `work` (default: `out` + ".work") keeps corpus, tokens and checkpoints, so that a run that was stopped goes on to
    the same result; it is removed at the end, and when recipe or data are at fault. `cache` (default: inside `work`)
    keeps the teacher's vectors, or what it wrote.

    Raises:
        KdserveError: see the rooms; nothing is left at `out`.
    """
    out = Path(out)
    if out.exists():
        raise FolderError(f"{out} exists already; choose another name or remove it first")
    # one that is missing is named before minutes of reading
    parent_students(recipe) if isinstance(recipe, Recipe) else parent_folders(recipe)
    work = Path(work) if work else out.with_name(out.name + ".work")
    is_new = not work.exists()
    try:
        work.mkdir(parents=True, exist_ok=True)
        is_first = processes().is_main_process
        with folder_lock(work) if is_first else nullcontext():
            try:
                run = prepare(recipe, work, cache=cache, progress=progress)
            except (DataError, FolderError, MissingExtraError, RecipeError):
                if is_new:  # recipe or data are at fault: nothing there is worth going on from
                    shutil.rmtree(work, ignore_errors=True)
                raise
            outcome = run.train(progress=progress)
            if is_first:
                run.save(outcome, out)
                shutil.rmtree(work)
            return outcome
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FolderError(
            f"{work} cannot be written ({reason}); fix that and run the same again, it goes on"
        ) from error
