from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdserve import samples
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


@pytest.fixture(scope="session")
def labelled_folder(pairs_folder: Path) -> Path:
    """Files of labelled texts beside the pairs: sample sentences that end in a question mark, and others."""
    for name, language in (("train.tsv", "en"), ("target.de.tsv", "de"), ("target.ja.tsv", "ja")):
        english, own = samples.parallel()["en"][:120], samples.parallel()[language][:120]
        rows = ["label\ttext"]
        rows += [f"{'question' if e.endswith('?') else 'statement'}\t{o}" for e, o in zip(english, own, strict=True)]
        (pairs_folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return pairs_folder


@pytest.fixture
def classifier_recipe(labelled_folder: Path):
    """Return a function that writes and loads a small classifier's recipe."""

    def make(mode: str = "unsupervised", *, overrides=()) -> Recipe:
        path = labelled_folder / f"classifier-{mode}.toml"
        path.write_text(RECIPE.format(mode=mode), encoding="utf-8")
        return load_recipe(path, overrides=overrides)

    return make


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
