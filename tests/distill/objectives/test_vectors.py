from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdserve.distill.objectives.layers import pool_words, relation_loss
from kdserve.distill.objectives.vectors import (
    contrastive_loss,
    cosine_loss,
    embedding_losses,
    matryoshka_loss,
    ranking_loss,
    relational_loss,
    spread_loss,
)
from kdserve.distill.students.grid import snap, snap_straight_through
from kdserve.recipe import ObjectiveRecipe


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_a_student_that_equals_its_teacher_loses_nothing():
    vectors = unit(6, 8)
    assert cosine_loss(vectors, vectors).item() == pytest.approx(0, abs=1e-6)
    assert relational_loss(vectors, vectors).item() == pytest.approx(0, abs=1e-6)
    assert matryoshka_loss(vectors, vectors, [8]).item() == pytest.approx(0, abs=1e-6)


def test_contrastive_loss_by_hand_with_margin_and_equal_sentences():
    queries, keys = unit(3, 4, seed=1), unit(3, 4, seed=2)
    different = torch.eye(3, dtype=torch.bool)
    cosines = queries @ keys.T
    by_hand = -(torch.log_softmax(10 * (cosines - 0.2 * torch.eye(3)), dim=-1)).diagonal().mean()
    assert contrastive_loss(queries, keys, different, scale=10, margin=0.2).item() == pytest.approx(by_hand.item())
    same = different.clone()
    same[0, 1] = same[1, 0] = True
    logits = 10 * cosines
    logits[0, 1] = logits[1, 0] = -torch.inf
    masked = -torch.log_softmax(logits, dim=-1).diagonal().mean()
    assert contrastive_loss(queries, keys, same, scale=10).item() == pytest.approx(masked.item())


def test_negatives_are_more_wrong_answers_unless_they_are_the_same_sentence():
    student, teacher, more = unit(3, 4, seed=1), unit(3, 4, seed=2), unit(5, 4, seed=3)
    recipe = ObjectiveRecipe(cosine=0, contrastive=1, scale=10)
    numbers = torch.tensor([7, 8, 0, 9, 10])  # the third one is the first text's own sentence
    losses = embedding_losses(student, teacher, torch.arange(3), recipe, negatives_ND=more, negative_N=numbers)
    logits = 10 * student @ torch.cat([teacher, more]).T
    logits[0, 5] = -torch.inf
    by_hand = -torch.log_softmax(logits, dim=-1).diagonal().mean()
    assert losses["contrastive"][1].item() == pytest.approx(by_hand.item())


def test_a_symmetric_contrast_also_looks_for_each_source_among_the_texts():
    student, teacher, more = unit(3, 4, seed=1), unit(3, 4, seed=2), unit(5, 4, seed=3)
    recipe = ObjectiveRecipe(cosine=0, contrastive=1, scale=10, symmetric=True)
    targets = torch.tensor([0, 1, 1])  # the second and third text are translations of one sentence
    losses = embedding_losses(student, teacher, targets, recipe, negatives_ND=more, negative_N=torch.arange(7, 12))
    forward, backward = 10 * student @ torch.cat([teacher, more]).T, 10 * teacher @ student.T
    for logits in (forward, backward):
        logits[1, 2] = logits[2, 1] = -torch.inf
    by_hand = -sum(torch.log_softmax(logits, dim=-1).diagonal().mean() for logits in (forward, backward)) / 2
    assert losses["contrastive"][1].item() == pytest.approx(by_hand.item())


def test_ranking_compares_softmaxes_over_the_teachers_vectors_of_the_others():
    student, teacher = unit(4, 8, seed=1), unit(4, 8, seed=2)
    assert ranking_loss(teacher, teacher, scale=20).item() == pytest.approx(0, abs=1e-6)
    total = 0.0
    for row in range(4):
        others = teacher[[i for i in range(4) if i != row]]
        theirs, ours = (torch.softmax(20 * one[row] @ others.T, dim=-1) for one in (teacher, student))
        total += float((theirs * (theirs / ours).log()).sum()) / 4
    assert ranking_loss(student, teacher, scale=20).item() == pytest.approx(total, rel=1e-4)


def test_spread_ignores_equal_sentences():
    vectors = unit(1, 4).expand(3, 4)
    assert spread_loss(vectors, torch.ones(3, 3, dtype=torch.bool)).item() == 0
    assert spread_loss(vectors, torch.eye(3, dtype=torch.bool)).item() == pytest.approx(1)


def test_each_objective_that_is_switched_on_comes_with_its_weight():
    student, teacher, source = unit(4, 8, seed=1), unit(4, 8, seed=2), unit(4, 8, seed=3)
    weights = {"cosine": 2, "mse": 1, "contrastive": 3, "translation": 0.5, "relational": 0.1, "spread": 0.2}
    recipe = ObjectiveRecipe(**weights, matryoshka=(4,))
    losses = embedding_losses(student, teacher, torch.arange(4), recipe, source_BD=source)
    assert {name: weight for name, (weight, _) in losses.items()} == {**weights, "matryoshka": 1.0}
    only = embedding_losses(student, teacher, torch.arange(4), ObjectiveRecipe(cosine=1, contrastive=0))
    assert list(only) == ["cosine"]
    assert only["cosine"][1].item() == pytest.approx(cosine_loss(student, teacher).item())


@pytest.mark.parametrize(("bits", "levels"), [(4, 7), (8, 127)])
def test_the_grid_is_exact_and_stable(bits: int, levels: int):
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    snapped = snap(rows, bits=bits)
    blocks = snapped.view(5, -1, 32) if bits == 4 else snapped[:, None]
    integers = blocks / (blocks.abs().amax(-1, keepdim=True) / levels)
    assert torch.allclose(integers, integers.round(), atol=1e-3)
    assert torch.allclose(snap(snapped, bits=bits), snapped, atol=1e-6)
    assert (rows - snapped).abs().max() <= rows.abs().max() / levels / 2 + 1e-6
    rows.requires_grad_()
    snap_straight_through(rows, bits=bits).sum().backward()
    assert torch.equal(rows.grad, torch.ones_like(rows))


def test_words_are_pooled_and_relations_compare_them():
    states = torch.arange(12.0).view(1, 4, 3)
    pooled = pool_words(states, torch.tensor([[0, 1, 1, 2]]), 3)
    assert torch.equal(pooled[0, 0], states[0, 1:3].mean(0))
    assert torch.equal(pooled[0, 1], states[0, 3])
    assert pooled[0, 2].abs().sum() == 0
    ours, theirs = unit(2, 3, 8, seed=1), unit(2, 3, 8, seed=2)
    present = torch.tensor([[True, True, True], [True, True, False]])
    assert relation_loss(ours, ours, present, heads=2).item() == pytest.approx(0, abs=1e-6)
    assert relation_loss(ours, theirs, present, heads=2).item() > 0
    changed = theirs.clone()
    changed[1, 2] = 9.0
    assert relation_loss(ours, changed, present, heads=2).item() == pytest.approx(
        relation_loss(ours, theirs, present, heads=2).item()
    )
