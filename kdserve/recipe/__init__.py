"""Recipes: everything that decides how a student comes out, in one TOML file.

The loader is strict: an unknown key, a wrong type, a missing key or a value out of range is an error that names the
dotted key and the file. `--set train.steps=20` goes through the same loader.

recipe       the whole, and the rules between its sections
sections     keys, defaults and meaning
classifier   the section of a classifier
loading      from TOML
"""

from kdserve.recipe.classifier import ClassifierRecipe
from kdserve.recipe.loading import load_recipe
from kdserve.recipe.recipe import Recipe, recipe_record
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

__all__ = [
    "AlignRecipe",
    "BodyRecipe",
    "ClassifierRecipe",
    "DataRecipe",
    "GuideRecipe",
    "LayerRecipe",
    "ObjectiveRecipe",
    "Recipe",
    "StudentRecipe",
    "TargetsRecipe",
    "TeacherRecipe",
    "TrainRecipe",
    "ValidationRecipe",
    "VocabularyRecipe",
    "load_recipe",
    "recipe_record",
]
