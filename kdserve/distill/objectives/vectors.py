"""Objectives on vectors and labels. Each one is a mean over the batch; the recipe weighs them.

Letters: B batch, D width, K labels or keys, N negatives. Student and teacher vectors have unit length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kdserve.recipe import ObjectiveRecipe


def embedding_losses(
    student_BD: Tensor,
    teacher_BD: Tensor,
    target_B: Tensor,
    recipe: ObjectiveRecipe,
    *,
    source_BD: Tensor | None = None,
    negatives_ND: Tensor | None = None,
    negative_N: Tensor | None = None,
) -> dict[str, tuple[float, Tensor]]:
    """Return the weight and the value of each objective of the recipe, by name.

    `student_BD` embeds texts in any language, `teacher_BD` is the teacher's vector of each one's source sentence,
    `target_B` the number of that sentence. `source_BD` is the student's own vector of it, where an objective needs it.
    `negatives_ND` and `negative_N` are the teacher's vectors, and the numbers, of sentences from outside the batch.
    """
    same_BB = target_B[:, None] == target_B[None, :]
    losses: dict[str, tuple[float, Tensor]] = {}
    if recipe.cosine:
        losses["cosine"] = recipe.cosine, cosine_loss(student_BD, teacher_BD)
    if recipe.mse:
        losses["mse"] = recipe.mse, functional.mse_loss(student_BD, teacher_BD)
    if recipe.contrastive:
        keys, same = teacher_BD, same_BB
        if negatives_ND is not None and negative_N is not None:
            keys = torch.cat([teacher_BD, negatives_ND])
            same = torch.cat([same_BB, target_B[:, None] == negative_N[None, :]], dim=1)
        loss = contrastive_loss(student_BD, keys, same, scale=recipe.scale, margin=recipe.margin)
        if recipe.symmetric:
            back = contrastive_loss(teacher_BD, student_BD, same_BB, scale=recipe.scale, margin=recipe.margin)
            loss = (loss + back) / 2
        losses["contrastive"] = recipe.contrastive, loss
    if recipe.translation and source_BD is not None:
        forward = contrastive_loss(student_BD, source_BD, same_BB, scale=recipe.scale, margin=recipe.margin)
        backward = contrastive_loss(source_BD, student_BD, same_BB, scale=recipe.scale, margin=recipe.margin)
        losses["translation"] = recipe.translation, (forward + backward) / 2
    if recipe.relational:
        losses["relational"] = recipe.relational, relational_loss(student_BD, teacher_BD)
    if recipe.ranking:
        losses["ranking"] = recipe.ranking, ranking_loss(student_BD, teacher_BD, scale=recipe.scale)
    if recipe.spread:
        losses["spread"] = recipe.spread, spread_loss(student_BD, same_BB)
    if recipe.matryoshka:
        losses["matryoshka"] = 1.0, matryoshka_loss(student_BD, teacher_BD, recipe.matryoshka)
    return losses


def cosine_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """1 - cosine to the teacher (Reimers & Gurevych 2020, with cosine in place of MSE)."""
    return 1 - (student_BD * teacher_BD).sum(dim=-1).mean()


def contrastive_loss(
    queries_BD: Tensor, keys_KD: Tensor, same_BK: Tensor, *, scale: float, margin: float = 0.0
) -> Tensor:
    """Cross-entropy of each query's own key, which has its number among the K >= B keys; equal sentences do not count.

    `margin` is taken off the right key's cosine before scaling (additive margin softmax, Yang et al. 2019).
    """
    own = torch.eye(len(queries_BD), len(keys_KD), dtype=torch.bool, device=queries_BD.device)
    logits = scale * (queries_BD @ keys_KD.T - margin * own)
    logits = logits.masked_fill(same_BK & ~own, -torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def relational_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean squared difference of the two batches' cosine matrices, scaled by B (Park et al. 2019, by similarities)."""
    difference = student_BD @ student_BD.T - teacher_BD @ teacher_BD.T
    return difference.square().sum(dim=-1).mean()


def ranking_loss(student_BD: Tensor, teacher_BD: Tensor, *, scale: float) -> Tensor:
    """KL of the student's to the teacher's ranking of the batch: each text's softmax over `scale` times its cosines.

    Both are set against the teacher's vectors of the others, as an index of them would be (Hofstätter et al. 2021 rank
    by margins; Fang et al. 2021, SEED, by this softmax).
    """
    own = torch.eye(len(student_BD), dtype=torch.bool, device=student_BD.device)
    ours = (scale * student_BD @ teacher_BD.T).masked_fill(own, -1e4).log_softmax(dim=-1)
    theirs = (scale * teacher_BD @ teacher_BD.T).masked_fill(own, -1e4).log_softmax(dim=-1)
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def spread_loss(student_BD: Tensor, same_BB: Tensor) -> Tensor:
    """Mean squared cosine of different sentences: a spread-out regulariser (Zhang et al. 2017)."""
    cosines = (student_BD @ student_BD.T).masked_fill(same_BB, 0.0)
    return cosines.square().sum() / (~same_BB).sum().clamp_min(1)


def matryoshka_loss(student_BD: Tensor, teacher_BD: Tensor, widths: Sequence[int]) -> Tensor:
    """Make the first `width` dimensions alone keep the teacher's similarities (Kusupati et al. 2022).

    The teacher's own first dimensions mean nothing by themselves, so each prefix learns the whole teacher's relations.
    """
    parts = [relational_loss(functional.normalize(student_BD[:, :width], dim=-1), teacher_BD) for width in widths]
    return torch.stack(parts).mean()


def soft_label_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """T² · KL of the teacher's to the student's softened predictions, summed over labels (Hinton et al. 2015).

    Both are logits or log-probabilities; the mean is over the batch, the right reduction of a divergence.
    """
    ours = functional.log_softmax(student_BK / temperature, dim=-1)
    theirs = functional.log_softmax(teacher_BK / temperature, dim=-1)
    return temperature**2 * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
