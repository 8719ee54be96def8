from __future__ import annotations

from pathlib import Path

import pytest

from kdserve.recipe import Recipe, load_recipe

THEMES = {"question": "?", "statement": "."}

RECIPE = """
name = "tiny"
family = "static"

[[data]]
path = "pairs.tsv"
language_column = "language"
source = "english"
translation = "other"

[vocabulary]
size = 700
folder = "vocabulary"

[student]
max_tokens = 24

[classifier]
mode = "{mode}"
labelled = "train.tsv"
target = "target.{{language}}.tsv"

[train]
steps = 8
batch_size = 16
evaluate_every = 4
checkpoint_every = 4
precision = "fp32"

[validation]
permille = 200
"""


@pytest.fixture
def classifier_recipe(labelled_folder: Path):
    """Return a function that writes and loads a small classifier's recipe."""

    def make(mode: str = "unsupervised", *, overrides=()) -> Recipe:
        path = labelled_folder / f"classifier-{mode}.toml"
        path.write_text(RECIPE.format(mode=mode), encoding="utf-8")
        return load_recipe(path, overrides=overrides)

    return make
