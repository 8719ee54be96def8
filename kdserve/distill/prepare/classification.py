"""Make a classifier student: labels in place of vectors, through the same engine as every other student.

Soft labels of a teacher in the source language reach the target languages over parallel text (Hinton et al. 2015; Xu &
Yang 2017); or the label is the text's language.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdserve.datatypes import Progress
from kdserve.distill.card import Outcome
from kdserve.distill.hardware import processes
from kdserve.distill.prepare.classifier_card import write_classifier_card
from kdserve.distill.prepare.classifier_ingredients import gather_classifier, start_label_layers
from kdserve.distill.run import EmbeddingRun
from kdserve.distill.tasks.classification import ClassificationTask
from kdserve.recipe import Recipe


def prepare_classifier(recipe: Recipe, work: Path, cache: Path | None, progress: Progress) -> EmbeddingRun:
    """Make everything below `work` that a classifier's training takes; see `prepare`."""
    with processes().main_process_first():  # it makes what the others then open
        ingredients = gather_classifier(recipe, work, cache=cache, progress=progress)
    if recipe.classifier and recipe.classifier.mode == "zero-shot":
        recipe = replace(recipe, train=replace(recipe.train, steps=0))
    student, labels = ingredients.student, ingredients.lessons.labels
    layers = start_label_layers(recipe, ingredients)

    def write_own(outcome: Outcome, folder: Path) -> None:
        student.cpu().save_head(folder)
        write_classifier_card(outcome, recipe, labels, folder / "README.md")

    return EmbeddingRun(
        recipe=recipe,
        work=work,
        key=ingredients.run_key(recipe),
        task=ClassificationTask(recipe, ingredients.data, student, ingredients.lessons, layers=layers),
        encoder=student.encoder,
        tokenizer=ingredients.tokenizer,
        data=ingredients.data,
        dim=student.head.in_features,
        parents=ingredients.parents,
        write_own=write_own,
        measure="held-out texts with the expected label",
        labels=labels,
    )
