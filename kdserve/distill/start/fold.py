"""Fold what was left out of a teacher's stack into the layers that were kept, in closed form.

A student's layer k is to give what the teacher's layer m gives, which stands some layers above the one that k was taken
from. Its last linear map, from the F units of its feed-forward block, is solved for that by ridge regression, from the
lowest layer up, so that each sees what those below it really give; its last normalisation is that of layer m. The
teacher's and the student's tokens are the same ones.

Letters: B batch, T tokens, N real tokens, W width of the body, F units of the feed-forward block, plus a bias.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import digest_of
from kdserve.distill.data.sampling import make_sampler
from kdserve.distill.hardware import best_device, supports_bf16
from kdserve.distill.objectives.live import LiveTeacher
from kdserve.distill.start.ingredients import Ingredients, keep_solved
from kdserve.distill.streams import Stream, random_stream
from kdserve.distill.students.embedder import TransformerStudent
from kdserve.errors import RecipeError
from kdserve.recipe import Recipe

Batch = tuple[Tensor, Tensor]
"""Ids and mask, both (B, T)."""
_BATCH = 32
_DAMPING = 0.01
"""Pull of a map towards its old values, as a share of the mean square of the units."""


def keep_folded(
    recipe: Recipe,
    ingredients: Ingredients,
    student: TransformerStudent,
    live: LiveTeacher,
    work: Path,
    *,
    progress: Progress = no_progress,
) -> None:
    """Fold the student's layers on `align.fold_texts` texts of the corpus, or as it was done before in `work`."""
    shares = [recipe.train.batch_by, recipe.train.temperature, recipe.train.source_share, recipe.targets.queries]
    own = recipe.student
    body = [own.layers, own.max_tokens, own.table_bits, own.table_rank, recipe.layers.map, recipe.align.fold_texts]
    key = digest_of(shares, body, recipe.seed, ingredients.teacher.fingerprint, ingredients.data.tokens.key)
    path = work / f"folded-{key[:16]}.safetensors"

    def solve() -> dict[str, Tensor]:
        device = torch.device(best_device())
        student.to(device).eval()
        live.to(device)
        fold_layers(student, live, _draw_batches(recipe, ingredients, device), progress=progress)
        return {name: value.contiguous() for name, value in student.body.state_dict().items()}

    student.body.load_state_dict(keep_solved(path, solve))


def _draw_batches(recipe: Recipe, ingredients: Ingredients, device: torch.device) -> list[Batch]:
    tokens, train = ingredients.data.tokens, replace(recipe.train, batch_size=_BATCH)
    sampler = make_sampler(ingredients.corpus, tokens.lengths, train, seed=recipe.seed)
    rng, batches = random_stream(Stream.FOLDED_TEXTS, recipe.seed), []
    for texts in islice(sampler.batches(start=0), -(-recipe.align.fold_texts // _BATCH)):
        queries = rng.random(len(texts)) < recipe.targets.queries
        ids_BT, mask_BT = tokens.padded(texts, wrap=True, queries_B=queries)
        batches.append((ids_BT.to(device), mask_BT.to(device)))
    return batches


@torch.no_grad()
def fold_layers(
    student: TransformerStudent,
    live: LiveTeacher,
    batches: Sequence[Batch],
    *,
    progress: Progress = no_progress,
) -> None:
    """Solve the student's layers, as the recipe maps them to the teacher's, on these batches.

    Raises:
        RecipeError: the body is not BERT's.
    """
    if student.body.config.model_type != "bert":
        raise RecipeError(f"align.fold_texts needs a BERT body, not {student.body.config.model_type}; set it to 0")
    device, pairs = student.table.device, sorted(live.pairs)
    norms = [live.encoder.body.encoder.layer[theirs].output.LayerNorm for _, theirs in pairs]
    wanted_NW: list[list[Tensor]] = []
    bf16 = supports_bf16(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):  # the weights change inside
        for done, (ids_BT, mask_BT) in enumerate(batches):
            states = _inputs_of(norms, live.encoder, ids_BT, mask_BT)
            wanted_NW.append([state_BTW[mask_BT.bool()].half() for state_BTW in states])
            progress("folding the layers: the teacher's states", done + 1, len(batches))
        for number, ((ours, _), norm) in enumerate(zip(pairs, norms, strict=True)):
            layer = student.body.encoder.layer[ours]
            layer.output.LayerNorm = copy.deepcopy(norm).requires_grad_()
            _solve(layer, student, batches, [wanted[number] for wanted in wanted_NW])
            progress("folding the layers", number + 1, len(pairs))


def _solve(layer: Any, student: TransformerStudent, batches: Sequence[Batch], wanted: Sequence[Tensor]) -> None:
    """Let a layer's last map lead to the `wanted` (N, W) of each batch, from which its input is taken off first."""
    linear: nn.Linear = layer.output.dense
    size = linear.in_features + 1
    products_FF, answers_FW = torch.zeros(size, size), torch.zeros(size, linear.out_features)
    for (ids_BT, mask_BT), half_NW in zip(batches, wanted, strict=True):
        states_BTW, units_BTF = _inputs_of([layer.intermediate, linear], student, ids_BT, mask_BT)
        real, wanted_NW = mask_BT.bool(), half_NW.float()
        weight_N1 = 1 / wanted_NW.std(dim=-1, keepdim=True)  # a normalisation makes all lengths equal
        units_NF = nn.functional.pad(units_BTF[real].float(), (0, 1), value=1.0) * weight_N1
        with torch.autocast(units_NF.device.type, enabled=False):
            products_FF += (units_NF.T @ units_NF).cpu()
            answers_FW += (units_NF.T @ (weight_N1 * (wanted_NW - states_BTW[real].float()))).cpu()
    before_FW = torch.cat([linear.weight.T, linear.bias[None]]).cpu()
    held = _DAMPING * products_FF.diagonal().mean()
    products_FF.diagonal().add_(held)
    solved_FW = torch.linalg.solve(products_FF, answers_FW + held * before_FW)
    linear.weight.copy_(solved_FW[:-1].T)
    linear.bias.copy_(solved_FW[-1])


class _Enough(Exception):
    pass


def _inputs_of(modules: Sequence[nn.Module], model: nn.Module, ids_BT: Tensor, mask_BT: Tensor) -> list[Tensor]:
    """Return what each of the modules is given, in the order in which they run; the model stops behind the last."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        if len(seen) == len(modules):
            raise _Enough

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        model(ids_BT, mask_BT)
    except _Enough:
        return seen
    finally:
        for handle in handles:
            handle.remove()
    raise AssertionError("a module was not run")
