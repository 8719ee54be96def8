from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from kdserve import samples
from kdserve.distill import distill, prepare
from kdserve.distill.objectives.guide import start_guide
from kdserve.distill.start.ingredients import gather
from kdserve.distill.start.student import start_student
from kdserve.distill.students.folder import open_student
from kdserve.distill.students.growth import MAX_DIFFERENCE, grow, grow_student
from kdserve.errors import FolderError, RecipeError
from kdserve.manifest import read_manifest, verify_folder, write_manifest
from kdserve.recipe import StudentRecipe

TYPES = "sentence_transformers.models."
OWN = ["student.body.width=64", "student.body.heads=4", "student.body.layers=2", "student.body.feed_forward=96"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, pairs_folder: Path, teacher_cache: Path) -> Path:
    """A trained student of two layers, 64 wide, with a table of 8 bits."""
    from kdserve.recipe import load_recipe
    from tests.distill.conftest import TINY

    path = pairs_folder / "small.toml"
    path.write_text(TINY.format(family="transformer", bits=8, steps=8, average=0.0), encoding="utf-8")
    folder = tmp_path_factory.mktemp("small") / "student"
    distill(load_recipe(path, overrides=[*OWN, "train.body_rate=3e-3"]), folder, cache=teacher_cache)
    return folder


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def pool_first_token(folder: Path) -> None:
    edit(folder / "1_Pooling" / "config.json", lambda config: config | {"pooling_mode": "cls"})


def shift_unit_vectors(folder: Path) -> None:
    edit(folder / "2_Dense" / "config.json", lambda config: config | {"bias": True})
    edit(folder / "modules.json", lambda modules: [*modules[:2], modules[3], *modules[2:]])


def add_a_norm(folder: Path) -> None:
    edit(folder / "modules.json", lambda modules: [*modules, modules[-1] | {"type": f"{TYPES}LayerNorm"}])


def cut_vectors(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", lambda config: config | {"truncate_dim": 32})


def name_tokens_otherwise(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("[CLS]", "<s>"), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pool_first_token, "a pooling that is no mean"),
        (shift_unit_vectors, "a dense layer over unit vectors with a bias"),
        (add_a_norm, r"the modules Transformer \+ Pooling \+ Dense \+ Normalize \+ LayerNorm"),
        (cut_vectors, "a truncate_dim"),
        (name_tokens_otherwise, r"vocabulary with \[PAD\] \[UNK\] <s> \[SEP\], not \[PAD\]"),
    ],
)
def test_a_student_of_others_neither_grows_nor_trains_on(tmp_path: Path, tiny_recipe, small: Path, change, message):
    other = tmp_path / "other"
    shutil.copytree(small, other)
    change(other)
    manifest = read_manifest(other, kind="student")
    write_manifest(other, kind="student", parents=manifest.parents, settings=manifest.settings)
    with pytest.raises(FolderError, match=rf"other.* {message}.*; name it as teacher.model"):
        grow(other, tmp_path / "grown", layers=3, width=0)
    recipe = tiny_recipe("transformer", overrides=["vocabulary.folder=", f"student.start={other}"])
    with pytest.raises(FolderError, match=message):
        distill(recipe, tmp_path / "student")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


@pytest.mark.parametrize(("layers", "width"), [(2, 64), (5, 64), (2, 192), (4, 128)])
def test_a_grown_student_gives_the_same_vectors(tmp_path: Path, small: Path, layers: int, width: int):
    growth = grow(small, tmp_path / "grown", layers=layers, width=width)
    assert growth.max_difference < MAX_DIFFERENCE
    manifest = verify_folder(tmp_path / "grown", kind="student")
    assert manifest.parents["student"] == verify_folder(small, kind="student").fingerprint
    assert manifest.settings["table_bits"] == 8
    config = json.loads((tmp_path / "grown" / "config.json").read_text())
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert [config[key] for key in sizes] == [width, layers, 4 * width // 64, 96 * width // 64]
    texts = [*samples.parallel()["de"][:10], *samples.parallel()["ja"][:10], "word " * 60]
    before, after = (
        SentenceTransformer(str(folder), device="cpu").encode(texts) for folder in (small, tmp_path / "grown")
    )
    np.testing.assert_allclose(after, before, atol=MAX_DIFFERENCE)


def test_every_new_weight_learns_and_copies_learn_apart(small: Path):
    settings = StudentRecipe(max_tokens=24, dropout=0.0)
    student = grow_student(open_student(small, settings), settings, layers=4, width=128, seed=1)
    ids = torch.randint(4, 700, (6, 9), generator=torch.Generator().manual_seed(0))
    target = torch.nn.functional.normalize(torch.randn(6, 384, generator=torch.Generator().manual_seed(1)), dim=-1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    before = {name: value.clone() for name, value in student.named_parameters()}
    for _ in range(2):  # silent projections learn at the first step, what stands before them at the second
        loss = 1 - (student(ids, torch.ones_like(ids)).vectors_BD * target).sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    still = [n for n, v in student.named_parameters() if torch.equal(v, before[n]) and "key.bias" not in n]
    assert not still
    first, second = student.body.encoder.layer[1].intermediate.dense.weight.detach().chunk(2)
    assert not torch.allclose(first, second)
    table = student.table.detach()
    assert not torch.allclose(table[:, :64], table[:, 64:])


def test_a_grown_student_trains_on_with_the_small_one_as_guide(
    tmp_path: Path, tiny_recipe, small: Path, teacher_cache: Path
):
    grow(small, tmp_path / "grown", layers=3, width=128)
    overrides = [f"student.start={tmp_path / 'grown'}", f"guide.student={small}", "guide.until=0.5"]
    recipe = tiny_recipe("transformer", bits=8, steps=8, overrides=["vocabulary.folder=", *overrides])
    made = gather(recipe, tmp_path / "work", cache=teacher_cache)
    student = start_student(recipe, made, tmp_path / "work")
    guide = start_guide(recipe, student, made.tokenizer, dim=384)
    assert [guide.weight_at(step) for step in (0, 2, 4, 8)] == [1.0, 0.5, 0.0, 0.0]
    prepare(recipe, tmp_path / "work", cache=teacher_cache).train()
    rows = [json.loads(line) for line in (tmp_path / "work" / "train" / "log.jsonl").read_text().splitlines()]
    assert 0 < rows[1]["guide"] < 0.2
    assert "guide" not in rows[2]
    distill(recipe, tmp_path / "student", cache=teacher_cache)
    assert SentenceTransformer(str(tmp_path / "student"), device="cpu").encode("Guten Tag").shape == (384,)
    parents = verify_folder(tmp_path / "student", kind="student").parents
    folders = {"student": tmp_path / "grown", "guide": small}
    assert parents == {
        "teacher": made.teacher.fingerprint,
        **{role: verify_folder(folder, kind="student").fingerprint for role, folder in folders.items()},
    }


def test_the_command_grows_and_says_what_it_did(tmp_path: Path, small: Path):
    from typer.testing import CliRunner

    from kdserve.cli import app

    ran = CliRunner().invoke(app, ["grow", str(small), "--layers", "3", "--out", str(tmp_path / "grown"), "--json"])
    assert ran.exit_code == 0, ran.output
    record = json.loads(ran.stdout)
    assert record["before"] == {"width": 64, "layers": 2, "heads": 4, "feed_forward": 96}
    assert record["after"] == {"width": 64, "layers": 3, "heads": 4, "feed_forward": 96}
    assert record["max_difference"] < MAX_DIFFERENCE


def test_what_cannot_grow_or_guide_is_refused(tmp_path: Path, tiny_recipe, small: Path, teacher_cache: Path):
    with pytest.raises(RecipeError, match="--width 100 is no multiple of the student's 64; try --width 128"):
        grow(small, tmp_path / "out", layers=2, width=100)
    with pytest.raises(RecipeError, match="--layers 100000 is more than 256"):
        grow(small, tmp_path / "out", layers=100_000, width=64)
    with pytest.raises(RecipeError, match="--width 64000 is more than 16384"):
        grow(small, tmp_path / "out", layers=2, width=64_000)
    for seed in (-1, 2**64):
        with pytest.raises(RecipeError, match=r"--seed -?\d+ lies outside \[0, 4294967295\]"):
            grow(small, tmp_path / "out", layers=3, width=64, seed=seed)
    with pytest.raises(RecipeError, match="--layers 1 is fewer than the student has; it has 2"):
        grow(small, tmp_path / "out", layers=1, width=64)
    distill(tiny_recipe("static", steps=0), tmp_path / "static", cache=teacher_cache)
    with pytest.raises(FolderError, match="is no transformer over BERT layers"):
        grow(tmp_path / "static", tmp_path / "out", layers=2, width=64)
    assert not (tmp_path / "out").exists()

    def start(*overrides: str) -> None:
        recipe = tiny_recipe("transformer", overrides=overrides)
        made = gather(recipe, tmp_path / "work", cache=teacher_cache)
        start_guide(recipe, start_student(recipe, made, tmp_path / "work"), made.tokenizer, dim=made.teacher.dim)

    with pytest.raises(RecipeError, match="is not of family transformer"):
        start(*OWN, f"guide.student={tmp_path / 'static'}")
    with pytest.raises(RecipeError, match="is not of family transformer; set family"):
        start("vocabulary.folder=", f"student.start={tmp_path / 'static'}")
    with pytest.raises(RecipeError, match=r"has another vocabulary than the student; set vocabulary\.folder"):
        start(*OWN, f"guide.student={small}", "vocabulary.folder=", "vocabulary.size=600")
    with pytest.raises(RecipeError, match=r"student\.max_tokens is 30, but the body to start from has 24 positions"):
        start("vocabulary.folder=", f"student.start={small}", "student.max_tokens=30")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"name": "s", "family": "transformer", "max_tokens": "24", "table_bits": 8},
        {"name": "s", "family": "transformer", "max_tokens": -1, "table_bits": 8},
        {"name": "s", "family": ["transformer"], "max_tokens": 24, "table_bits": 8},
    ],
)
def test_odd_settings_of_a_manifest_are_one_line(tmp_path: Path, settings: dict[str, object]):
    (tmp_path / "s").mkdir()
    write_manifest(tmp_path / "s", kind="student", settings=settings)
    with pytest.raises(FolderError, match="distil it again"):
        grow(tmp_path / "s", tmp_path / "grown", layers=0, width=0)
