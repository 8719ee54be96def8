"""Recipes: everything that decides how a student comes out, in one TOML file.

The loader is strict: an unknown key, a wrong type, a missing key or a value out of range is an error that names the
dotted key and the file. `--set train.steps=20` goes through the same loader.

base         what every recipe says of its data
recipe       the whole of a student that embeds, and the rules between its sections
sections     keys, defaults and meaning; loop, of every training loop
classifier   the section of a classifier
translation  students that write: their sections, and the whole
loading      from TOML
"""

from kdserve.recipe.base import PairsRecipe
from kdserve.recipe.classifier import ClassifierRecipe
from kdserve.recipe.loading import load_recipe
from kdserve.recipe.loop import LoopRecipe
from kdserve.recipe.recipe import Recipe, recipe_record, teacher_name
from kdserve.recipe.sections import (
    AlignRecipe,
    BodyRecipe,
    DataRecipe,
    GuideRecipe,
    LayerRecipe,
    ObjectiveRecipe,
    StudentRecipe,
    TargetsRecipe,
    TeacherRecipe,
    TrainRecipe,
    ValidationRecipe,
    VocabularyRecipe,
)
from kdserve.recipe.translation import (
    FilterRecipe,
    SequenceRecipe,
    TargetVocabularyRecipe,
    WriterBodyRecipe,
    WriterStudentRecipe,
    WriterTeacherRecipe,
    WriterTrainRecipe,
    WritingObjectiveRecipe,
)

__all__ = [
    "AlignRecipe",
    "BodyRecipe",
    "ClassifierRecipe",
    "DataRecipe",
    "FilterRecipe",
    "GuideRecipe",
    "LayerRecipe",
    "LoopRecipe",
    "ObjectiveRecipe",
    "PairsRecipe",
    "Recipe",
    "SequenceRecipe",
    "StudentRecipe",
    "TargetVocabularyRecipe",
    "TargetsRecipe",
    "TeacherRecipe",
    "TrainRecipe",
    "ValidationRecipe",
    "VocabularyRecipe",
    "WriterBodyRecipe",
    "WriterStudentRecipe",
    "WriterTeacherRecipe",
    "WriterTrainRecipe",
    "WritingObjectiveRecipe",
    "load_recipe",
    "recipe_record",
    "teacher_name",
]
