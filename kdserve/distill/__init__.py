"""Make a student of a teacher: recipe in, student folder out.

The road: read the pairs, train the vocabulary, embed the source sentences with the teacher, solve the token table in
closed form, train, save. Everything that takes long is kept in a work folder beside the target and resumed from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

from safetensors import SafetensorError

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.card import Outcome
from kdserve.distill.hardware import processes
from kdserve.distill.prepare import prepare
from kdserve.distill.prepare.translation import parent_folders
from kdserve.distill.run import Run
from kdserve.distill.students.folder import require_trainable
from kdserve.distill.teachers.embedder import Teacher, load_teacher
from kdserve.errors import DataError, FolderError, MissingExtraError, RecipeError
from kdserve.locks import folder_lock
from kdserve.recipe import Recipe, SequenceRecipe
from kdserve.staging import remove_abandoned, remove_folder, require_outside

__all__ = ["Outcome", "Run", "Teacher", "distill", "load_teacher", "prepare"]

OpenBundles = Callable[[Recipe | SequenceRecipe, Path], Recipe | SequenceRecipe]
"""Open the bundles that a recipe names below a folder, and return the recipe that names what came of them."""


def distill(
    recipe: Recipe | SequenceRecipe,
    out: Path,
    *,
    work: Path | None = None,
    cache: Path | None = None,
    open_bundles: OpenBundles = lambda recipe, _: recipe,
    progress: Progress = no_progress,
) -> Outcome:
    """Make the recipe's student and write it to `out`, a folder that SentenceTransformer opens, or transformers.

    `work` (default: `out` + ".work") keeps corpus, tokens and checkpoints, so that a run that was stopped goes on to
    the same result; it is removed at the end, and when recipe or data are at fault before anything took long. `cache`
    (default: inside `work`) keeps the teacher's vectors, or what it wrote.

    Raises:
        KdserveError: see the rooms; nothing is left at `out`.
    """
    out = Path(out)
    _require_absent(out, work)
    work = Path(work) if work else _work_beside(out)
    is_new = not work.exists()
    try:
        work.mkdir(parents=True, exist_ok=True)
        is_first = processes().is_main_process
        with folder_lock(work) if is_first else nullcontext():
            try:
                recipe = open_bundles(recipe, work / "published")
                require_trainable(recipe) if isinstance(recipe, Recipe) else parent_folders(recipe)
                run = prepare(recipe, work, cache=cache, progress=progress)
            except (DataError, FolderError, MissingExtraError, RecipeError):
                if is_new and not _took_long(work):
                    shutil.rmtree(work, ignore_errors=True)
                raise
            outcome = run.train(progress=progress)
            if is_first:
                run.save(outcome, out)
                remove_folder(work)
            return outcome
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FolderError(
            f"{getattr(error, 'filename', None) or work} cannot be used ({reason}); fix that and run the same again, "
            "it goes on"
        ) from error


def _work_beside(out: Path) -> Path:
    return out.with_name(f"{out.name}.work")


def _require_absent(out: Path, work: Path | None) -> None:
    """Refuse a folder that is there or would lie in one that kdserve made, and sweep what a run that was killed at its
    very end left to be removed.
    """
    for made in filter(None, (out, work)):
        require_outside(Path(made))
    if not (out.exists() or out.is_symlink()):
        return
    left = ""
    if out.name:  # "." and "/" have none
        work = Path(work) if work else _work_beside(out)
        remove_abandoned(work)
        left = f" (and {work}, which its run left)" if work.exists() else ""
    raise FolderError(f"{out} exists already; choose another name or remove it{left} first")


def _took_long(work: Path) -> bool:
    """Whether a work folder holds answers of the teacher, or weights."""
    made = chain(work.glob("teacher/*/*"), work.glob("*.safetensors"), work.glob("*/last.safetensors"))
    return any(path.stat().st_size for path in made)
