"""The recipe as a whole, and the rules that hold between its sections."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdserve.recipe.base import PairsRecipe
from kdserve.recipe.classifier import ClassifierRecipe
from kdserve.recipe.sections import (
    AlignRecipe,
    GuideRecipe,
    LayerRecipe,
    ObjectiveRecipe,
    StudentRecipe,
    TargetsRecipe,
    TeacherRecipe,
    TrainRecipe,
    VocabularyRecipe,
)
from kdserve.toml import Rule, require_rules


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(PairsRecipe):
    """How a student that embeds, or a classifier over it, is made."""

    family: Literal["static", "transformer"]
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    vocabulary: VocabularyRecipe = field(default_factory=VocabularyRecipe)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    targets: TargetsRecipe = field(default_factory=TargetsRecipe)
    align: AlignRecipe = field(default_factory=AlignRecipe)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    layers: LayerRecipe = field(default_factory=LayerRecipe)
    guide: GuideRecipe = field(default_factory=GuideRecipe)
    classifier: ClassifierRecipe | None = None
    train: TrainRecipe = field(default_factory=TrainRecipe)

    def __post_init__(self) -> None:
        self.require_data()
        require_rules(
            (
                "student.start",
                not (self.student.start and self.vocabulary.folder),
                "has a vocabulary; remove vocabulary.folder",
            ),
            (
                "validation.questions",
                not (self.classifier and self.validation.questions),
                "needs a student that embeds; remove it beside classifier",
            ),
            *_live_rules(self),
            *_language_rules(self),
        )
        aims = self.objective
        if (
            self.train.steps
            and aims.mse > 0
            and not aims.contrastive + aims.translation + aims.relational + aims.cosine
        ):
            raise ValueError(
                "objective.mse alone collapses onto one vector when the teacher's vectors are normalised; "
                "add objective.cosine, contrastive or relational"
            )

    @property
    def takes_layers(self) -> bool:
        """Whether the student starts from layers of the teacher."""
        return self.family == "transformer" and not self.student.body and not self.student.start


def recipe_record(recipe: PairsRecipe) -> dict[str, Any]:
    """Return the recipe as JSON: what a student's manifest keeps of it.

    Where folders lay says nothing of the student: those of students are named alone, of a teacher where its path is a
    whole one.
    """
    record: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    del record["data_dir"]
    for section, key in (("student", "start"), ("student", "encoder"), ("guide", "student")):
        if name := record.get(section, {}).get(key):
            record[section][key] = Path(name).name
    record["teacher"]["model"] = teacher_name(record["teacher"]["model"])
    if classifier := record.get("classifier"):
        classifier["teacher"] = teacher_name(classifier["teacher"])
    return record


def teacher_name(model: str) -> str:
    """Return what a teacher is called: the name of its folder where the recipe has a whole path."""
    return Path(model).name if Path(model).is_absolute() else model


def _live_rules(recipe: Recipe) -> list[Rule]:
    """Rules for a teacher that runs beside the student, or gives it its vocabulary."""
    targets, align, of_teacher = recipe.targets, recipe.align, recipe.vocabulary.of_teacher
    live, folds = targets.live, align.fold_texts > 0
    return [
        ("targets.own", of_teacher or not live, "needs vocabulary.of_teacher"),
        ("align.fold_texts", live or not folds, "needs targets.own or targets.partner"),
        ("align.fold_texts", bool(recipe.layers.map) or not folds, "needs layers.map"),
        (
            "align.fold_texts",
            not (folds and recipe.student.start),
            "must be 0 with student.start, which is taught already",
        ),
        ("layers.states", live or not recipe.layers.states, "needs targets.own or targets.partner"),
        ("objective.negatives", not (live and recipe.objective.negatives), "needs targets.source"),
        ("train.joined", targets.partner > 0 or not recipe.train.joined, "needs targets.partner"),
        ("train.joined", not (recipe.train.joined and recipe.train.split_tokens), "needs train.split_tokens = 0"),
        ("train.batch_size", not targets.partner or recipe.train.batch_size % 2 == 0, "must be even"),
        (
            "vocabulary.of_teacher",
            recipe.takes_layers or bool(recipe.student.start) or not of_teacher,
            "needs layers of the teacher, or student.start",
        ),
        (
            "align.body_steps",
            not (of_teacher and align.body_steps),
            "must be 0 with vocabulary.of_teacher, whose table needs no solve; layers.states settles the body",
        ),
    ]


def _language_rules(recipe: Recipe) -> list[Rule]:
    """Rules where there is no teacher, as labels are languages."""
    if recipe.classifier is None or recipe.classifier.mode != "language":
        return []
    none = 'needs a teacher, and classifier.mode = "language" has none'
    return [
        ("layers", recipe.layers == LayerRecipe(), none),
        ("vocabulary.teacher_words", not recipe.vocabulary.teacher_words, none),
        (
            "student.body.width",
            recipe.family == "static" and recipe.student.body is not None,
            "is missing: the width of the token table; and the family must be static",
        ),
    ]
