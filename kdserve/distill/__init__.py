"""Make a student of a teacher: recipe in, student folder out.

The road: read the pairs, train the vocabulary, embed the source sentences with the teacher, solve the token table in
closed form, train, save. Everything that takes long is kept in a work folder beside the target and resumed from there.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from accelerate import PartialState
from safetensors import SafetensorError

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.card import Outcome, count_pairs, draw_curve, write_card
from kdserve.distill.classifier import distill_classifier
from kdserve.distill.fold import keep_folded
from kdserve.distill.guide import start_guide
from kdserve.distill.hardware import best_device
from kdserve.distill.ingredients import Ingredients, gather
from kdserve.distill.reopen import parent_students
from kdserve.distill.start import start_layers, start_live, start_student
from kdserve.distill.student import Student, TransformerStudent, save_student
from kdserve.distill.teacher import Teacher, load_teacher
from kdserve.distill.training import Trainer
from kdserve.distill.vocabulary import measure_coverage, sentences_by_language
from kdserve.errors import DataError, FolderError, MissingExtraError, RecipeError
from kdserve.locks import folder_lock
from kdserve.manifest import staged_folder, write_manifest
from kdserve.recipe import Recipe, recipe_record

__all__ = ["Teacher", "distill", "load_teacher"]


def distill(
    recipe: Recipe,
    out: Path,
    *,
    work: Path | None = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Outcome:
    """Make the recipe's student and write it to `out`, a folder that SentenceTransformer opens.

    `work` (default: `out` + ".work") keeps corpus, tokens and checkpoints, so that a run that was stopped goes on to
    the same result; it is removed at the end, and when recipe or data are at fault. `cache` (default: inside `work`)
    keeps the teacher's vectors.

    Raises:
        KdserveError: see the rooms; nothing is left at `out`.
    """
    out = Path(out)
    if out.exists():
        raise FolderError(f"{out} exists already; choose another name or remove it first")
    parent_students(recipe)  # one that is missing is named before minutes of reading
    work = Path(work) if work else out.with_name(out.name + ".work")
    is_new = not work.exists()
    try:
        work.mkdir(parents=True, exist_ok=True)
        is_first = PartialState(cpu=best_device() == "cpu").is_main_process
        with folder_lock(work) if is_first else nullcontext():
            return _distill(recipe, out, work, cache, progress)
    except (DataError, RecipeError, MissingExtraError):
        if is_new:  # nothing there is worth going on from
            shutil.rmtree(work, ignore_errors=True)
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FolderError(
            f"{work} cannot be written ({reason}); mend that and run the same again, it goes on"
        ) from error


def _distill(recipe: Recipe, out: Path, work: Path, cache: Path | None, progress: Progress) -> Outcome:
    if recipe.classifier.mode:
        return distill_classifier(recipe, out, work, cache=cache, progress=progress)
    with PartialState().main_process_first():  # the first makes what the others then open
        made = gather(recipe, work, cache=cache, progress=progress)
    student = start_student(recipe, made, work, progress=progress)
    layers = start_layers(recipe, student, teacher=made.teacher, tokenizer=made.tokenizer, corpus=made.corpus)
    live = start_live(recipe, student, teacher=made.teacher)
    if live and recipe.align.fold_texts and isinstance(student, TransformerStudent):
        keep_folded(recipe, made, student, live, work, progress=progress)
    guide = start_guide(recipe, student, made.tokenizer, dim=made.teacher.dim)
    key = made.run_key(recipe)
    trainer = Trainer(recipe, made.data, student, work / "train", key=key, layers=layers, guide=guide, live=live)
    accuracy = trainer.run(progress=progress)
    outcome = Outcome(
        recipe=recipe,
        accuracy=accuracy,
        best_step=trainer.best_step,
        coverage=measure_coverage(made.tokenizer, sentences_by_language(made.corpus, most=500, seed=recipe.seed)),
        num_pairs=count_pairs(made.corpus),
        domains=made.corpus.domains,
    )
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        _save(made, student.cpu(), outcome, work / "train" / "log.jsonl", out)
        shutil.rmtree(work)
    return outcome


def _save(made: Ingredients, student: Student, outcome: Outcome, log: Path, out: Path) -> None:
    recipe = outcome.recipe
    with staged_folder(out) as folder:
        prompts = made.teacher.prompts if recipe.targets.live else ("", "")
        save_student(student, made.tokenizer, folder, max_tokens=recipe.student.max_tokens, prompts=prompts)
        draw_curve(log, folder / "curve.png", title=recipe.name)
        write_card(outcome, folder / "README.md")
        languages = sorted(set(recipe.languages) or {language for language in made.corpus.languages if language})
        write_manifest(
            folder,
            kind="student",
            parents={"teacher": made.teacher.fingerprint, **parent_students(recipe)},
            settings={
                "family": recipe.family,
                "name": recipe.name,
                "dim": made.teacher.dim,
                "max_tokens": recipe.student.max_tokens,
                "languages": sorted({"en", *languages}),
                "weak_languages": sorted(recipe.weak_languages),
                "table_bits": recipe.student.table_bits,
                "recipe": recipe_record(recipe),
                "accuracy": {"languages": outcome.accuracy.by_language, "domains": outcome.accuracy.by_domain},
            },
        )
