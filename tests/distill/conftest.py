from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdserve import samples
from kdserve.distill.data.vocabulary import train_unigram
from kdserve.recipe import Recipe, load_recipe

TINY = """
name = "tiny"
family = "{family}"

[[data]]
path = "pairs.tsv"
language_column = "language"
source = "english"
translation = "other"

[vocabulary]
size = 700
folder = "vocabulary"

[student]
layers = [0, 5]
max_tokens = 24
table_bits = {bits}

[train]
steps = {steps}
batch_size = 16
average = {average}
evaluate_every = 4
checkpoint_every = 2
precision = "fp32"

[validation]
permille = 150
"""

CLASSIFIER = """
[classifier]
mode = "{mode}"
labelled = "train.tsv"
target = "target.{{language}}.tsv"
"""


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 120 sample sentences in German and Japanese, one file with a language column."""
    folder = tmp_path_factory.mktemp("pairs")
    parallel = samples.parallel()
    lines = ["language\tenglish\tother"]
    for language in ("de", "ja"):
        lines += [f"{language}\t{e}\t{o}" for e, o in zip(parallel["en"][:120], parallel[language][:120], strict=True)]
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "vocabulary").mkdir()
    train_unigram([*parallel["en"], *parallel["de"], *parallel["ja"]], 700).save(
        str(folder / "vocabulary" / "tokenizer.json")
    )
    return folder


@pytest.fixture(scope="session")
def labelled_folder(pairs_folder: Path) -> Path:
    """Files of labelled texts beside the pairs: sample sentences that end in a question mark, and others."""
    for name, language in (("train.tsv", "en"), ("target.de.tsv", "de"), ("target.ja.tsv", "ja")):
        english, own = samples.parallel()["en"][:60], samples.parallel()[language][:60]
        rows = ["label\ttext"]
        rows += [f"{'question' if e.endswith('?') else 'statement'}\t{o}" for e, o in zip(english, own, strict=True)]
        (pairs_folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return pairs_folder


@pytest.fixture(scope="session")
def teacher_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny_recipe(pairs_folder: Path):
    """Return a function that writes and loads a small recipe."""

    def make(family: str = "static", *, bits: int = 0, steps: int = 8, average: float = 0.0, overrides=()) -> Recipe:
        path = pairs_folder / f"{family}-{bits}-{steps}-{average}.toml"
        text = TINY.format(family=family, bits=bits, steps=steps, average=average)
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, overrides=overrides)

    return make


@pytest.fixture
def classifier_recipe(labelled_folder: Path):
    """Return a function that writes and loads a small classifier's recipe."""

    def make(mode: str = "unsupervised", *, overrides=()) -> Recipe:
        path = labelled_folder / f"classifier-{mode}.toml"
        text = TINY.format(family="static", bits=0, steps=8, average=0.0) + CLASSIFIER.format(mode=mode)
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, overrides=["validation.permille=200", "train.checkpoint_every=4", *overrides])

    return make


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
