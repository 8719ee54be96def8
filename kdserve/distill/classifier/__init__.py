"""Make a classifier student: labels in place of vectors, through the same engine as every other student.

Soft labels of a teacher in the source language reach the target languages over parallel text (Hinton et al. 2015; Xu &
Yang 2017); or the label is the text's language.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from kdserve.datatypes import Progress
from kdserve.distill.card import Outcome, count_pairs, draw_curve
from kdserve.distill.classifier.card import write_classifier_card
from kdserve.distill.classifier.ingredients import ClassifierIngredients, gather_classifier, start_label_layers
from kdserve.distill.classifier.training import ClassifierTrainer
from kdserve.distill.corpus import SOURCE
from kdserve.distill.student import save_student
from kdserve.manifest import staged_folder, write_manifest
from kdserve.recipe import Recipe, recipe_record

__all__ = ["distill_classifier"]


def distill_classifier(recipe: Recipe, out: Path, work: Path, *, cache: Path | None, progress: Progress) -> Outcome:
    """Make the recipe's classifier and write it to `out`: a student's folder with a head and labels.

    Raises:
        KdserveError: see the rooms; nothing is left at `out`.
    """
    with PartialState().main_process_first():
        made = gather_classifier(recipe, work, cache=cache, progress=progress)
    if recipe.classifier.mode == "zero-shot":
        recipe = replace(recipe, train=replace(recipe.train, steps=0))
    layers = start_label_layers(recipe, made)
    key = made.run_key(recipe)
    trainer = ClassifierTrainer(
        recipe, made.data, made.student, work / "train", key=key, lessons=made.lessons, layers=layers
    )
    accuracy = trainer.run(progress=progress)
    outcome = Outcome(
        recipe=recipe,
        accuracy=accuracy,
        best_step=trainer.best_step,
        coverage={},
        num_pairs=count_pairs(made.data.corpus),
        domains=made.data.corpus.domains,
    )
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        _save(made, outcome, work / "train" / "log.jsonl", out)
        shutil.rmtree(work)
    return outcome


def _save(made: ClassifierIngredients, outcome: Outcome, log: Path, out: Path) -> None:
    recipe, student = outcome.recipe, made.student.cpu()
    with staged_folder(out) as folder:
        save_student(student.encoder, made.tokenizer, folder, max_tokens=recipe.student.max_tokens)
        student.save_head(folder)
        draw_curve(log, folder / "curve.png", title=recipe.name, measure="held-out texts with the expected label")
        write_classifier_card(outcome, made.lessons.labels, folder / "README.md")
        languages = recipe.languages or made.data.corpus.languages
        write_manifest(
            folder,
            kind="student",
            parents=made.parents,
            settings={
                "family": recipe.family,
                "name": recipe.name,
                "dim": student.head.in_features,
                "max_tokens": recipe.student.max_tokens,
                "languages": sorted({SOURCE, *(language for language in languages if language)}),
                "weak_languages": sorted(recipe.weak_languages),
                "table_bits": recipe.student.table_bits,
                "labels": list(made.lessons.labels),
                "recipe": recipe_record(recipe),
                "accuracy": {"languages": outcome.accuracy.by_language, "domains": outcome.accuracy.by_domain},
            },
        )
