from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kdserve.distill import prepare
from kdserve.distill.objectives.layers import attention_loss, pool_attention
from kdserve.distill.start.ingredients import gather
from kdserve.distill.start.student import start_layers, start_student
from kdserve.errors import RecipeError

ALL = ["layers.map=[[0, 0], [1, 5]]", "layers.hidden=0.1", "layers.attention=1.0", "layers.relations=0.5"]


def test_attention_among_words_by_hand():
    maps = torch.tensor([[[[0.2, 0.3, 0.4, 0.1], [0.0, 0.5, 0.5, 0.0], [0.6, 0.1, 0.1, 0.2], [0.25] * 4]]])
    words = torch.tensor([[0, 1, 1, 2]])  # [CLS], a word of two tokens, a word of one
    pooled = pool_attention(maps, words, torch.tensor([[True, True]]))
    first = torch.tensor([(0.5 + 0.5 + 0.1 + 0.1) / 2, (0.0 + 0.2) / 2])
    expected = torch.stack([first / first.sum(), torch.tensor([2 / 3, 1 / 3])])
    torch.testing.assert_close(pooled[0, 0], expected)


def test_equal_attention_loses_nothing_and_different_numbers_of_heads_are_averaged():
    maps = torch.softmax(torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    has_word = torch.tensor([[True, True, True], [True, True, True]])
    assert attention_loss(maps, maps, has_word).item() == pytest.approx(0, abs=1e-6)
    assert attention_loss(maps.mean(dim=1, keepdim=True), maps, has_word).item() == pytest.approx(0, abs=1e-6)
    other = maps.flip(-1)
    by_hand = (maps * (maps / other).log()).sum(dim=-1).mean()
    assert attention_loss(other, maps, has_word).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_words_that_one_tokenizer_lacks_are_left_out():
    maps = torch.softmax(torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    words, has_word = torch.tensor([[1, 2, 3, 3]]), torch.tensor([[True, True, False]])
    pooled = pool_attention(maps, words, has_word)
    assert pooled[..., 2].abs().max() == 0
    torch.testing.assert_close(pooled[:, :, :2].sum(dim=-1), torch.ones(1, 2, 2))
    assert torch.isfinite(attention_loss(pooled, pooled.flip(1), has_word))


def test_all_objectives_inside_the_body_fall_while_training(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    recipe = tiny_recipe("transformer", steps=24, overrides=[*ALL, "objective.cosine=0.5", "train.body_rate=1e-3"])
    run = prepare(recipe, tmp_path / "work", cache=teacher_cache)
    run.train()
    rows = [json.loads(line) for line in (run.work / "train" / "log.jsonl").read_text().splitlines()]
    for name in ("attention", "relations", "hidden"):
        assert rows[-1][name] < rows[1][name], name


def test_the_projection_depends_on_the_seed_alone(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    def project(seed: int) -> torch.Tensor:
        body = [
            "student.body.width=16",
            "student.body.heads=2",
            "student.body.layers=1",
            "student.body.feed_forward=32",
        ]
        inside = ["layers.map=[[0, 5]]", "layers.hidden=1.0", f"seed={seed}"]
        recipe = tiny_recipe("transformer", overrides=[*body, *inside])
        run = prepare(recipe, tmp_path / f"work-{seed}", cache=teacher_cache)
        return run.task.beside["layers"].projection.weight.detach()

    assert torch.equal(project(1), project(1))
    assert not torch.equal(project(1), project(2))


def test_maps_and_heads_that_do_not_fit_are_refused(tmp_path: Path, tiny_recipe, teacher_cache: Path):
    def start(*overrides: str) -> None:
        recipe = tiny_recipe("transformer", overrides=overrides)
        made = gather(recipe, tmp_path / "work", cache=teacher_cache)
        student = start_student(recipe, made, tmp_path / "work")
        start_layers(
            recipe.layers,
            student,
            teacher=made.teacher,
            tokenizer=made.tokenizer,
            corpus=made.corpus,
            seed=recipe.seed,
        )

    with pytest.raises(RecipeError, match=r"layers\.map is missing"):
        start("layers.attention=1.0")
    with pytest.raises(RecipeError, match=r"layers\.map names student layer 2, but it has layers 0 to 1"):
        start("layers.attention=1.0", "layers.map=[[2, 5]]")
    with pytest.raises(RecipeError, match=r"layers\.map names teacher layer 6, but it has layers 0 to 5"):
        start("layers.attention=1.0", "layers.map=[[0, 6]]")
    with pytest.raises(RecipeError, match=r"layers\.relation_heads is 7, which does not divide width 384"):
        start("layers.relations=1.0", "layers.map=[[0, 5]]", "layers.relation_heads=7")
