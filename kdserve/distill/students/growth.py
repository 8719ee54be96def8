"""Grow a transformer student, in depth and width, so that it gives the same vectors as before: a start for training.

Depth: a new BERT layer whose two sub-layers add nothing normalises twice what is normalised already. It gives back what
it gets where that has mean 0 and variance 1, so gain and shift of the layer below move up into the new layer's last
normalisation. Its other weights are copies of that layer's, folded to see the states that they would have seen.
Width: each unit is doubled (tripled, …) with all that it computes, heads as a whole, and what it sends on is split
among its copies (Net2Net, Chen et al. 2016; bert2BERT, Chen et al. 2022). Mean and variance of a state stay the same
when all units have equally many copies: hence whole multiples only. The shares are unequal, so that the copies learn
apart.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdserve.distill.data.vocabulary import read_own_vocabulary
from kdserve.distill.students.embedder import TransformerStudent, save_student
from kdserve.distill.students.folder import open_student, read_prompts
from kdserve.errors import FolderError, RecipeError
from kdserve.manifest import write_manifest
from kdserve.model_settings import verify_student
from kdserve.recipe import BodyRecipe, StudentRecipe
from kdserve.recipe.sections import MOST_LAYERS, MOST_WIDTH
from kdserve.staging import require_new, staged_folder

MAX_DIFFERENCE = 1e-5
"""Largest difference of a grown student's vectors, in any dimension, from what they were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """Sizes of a student before and after; `max_difference` of the two's vectors over the sample sentences."""

    before: BodyRecipe
    after: BodyRecipe
    max_difference: float


def grow(folder: Path, out: Path, *, layers: int, width: int, seed: int = 1) -> Growth:
    """Write the student of `folder`, grown to `layers` layers of `width` (0: as it has), to `out`.

    Raises:
        FolderError: no transformer student over BERT layers, or one that does not keep its vectors.
        RecipeError: fewer layers, a width that is no multiple of the student's, or sizes or a seed out of range.
    """
    require_new(out)
    manifest, settings = verify_student(folder)
    if settings.labels:
        raise FolderError(f"{folder} is a classifier; grow the student that it started from, and distil it again")
    recipe = StudentRecipe(max_tokens=settings.max_tokens, table_bits=settings.table_bits)
    student, tokenizer = open_student(folder, recipe), read_own_vocabulary(folder, key="STUDENT")
    if not isinstance(student, TransformerStudent) or student.body.config.model_type != "bert":
        raise FolderError(f"{folder} is no transformer over BERT layers; only those can be grown")
    size = _size(student)
    layers, width = layers or size.layers, width or size.width
    grown = grow_student(student, recipe, layers=layers, width=width, seed=seed)
    growth = Growth(before=size, after=_size(grown), max_difference=_difference(student, grown, tokenizer))
    if not growth.max_difference < MAX_DIFFERENCE:
        raise FolderError(f"{folder} would change by {growth.max_difference:.1e} as it grows; it cannot be grown")
    with staged_folder(out) as staging:
        prompts = read_prompts(folder)
        save_student(grown, tokenizer, staging, max_tokens=settings.max_tokens, prompts=prompts)
        (staging / "README.md").write_text(_card(settings.name, growth), encoding="utf-8")
        write_manifest(
            staging,
            kind="student",
            parents={**manifest.parents, "student": manifest.fingerprint},
            settings=replace(settings, grown={"layers": layers, "width": width}).to_json(),
        )
    return growth


def grow_student(
    student: TransformerStudent, settings: StudentRecipe, *, layers: int, width: int, seed: int
) -> TransformerStudent:
    """Return a grown copy of a student over BERT layers.

    Raises:
        RecipeError: fewer layers, a width that is no multiple of the student's, or sizes or a seed out of range.
    """
    size = _size(student)
    if not 0 <= seed < 2**32:
        raise RecipeError(f"--seed {seed} lies outside [0, 4294967295]; choose one inside, as in recipes")
    for option, value, most in (("--layers", layers, MOST_LAYERS), ("--width", width, MOST_WIDTH)):
        if value > most:
            raise RecipeError(f"{option} {value} is more than {most}, the most that a student may have; ask for less")
    if layers < size.layers:
        raise RecipeError(
            f"--layers {layers} is fewer than the student has; it has {size.layers}, name as many or more"
        )
    if width % size.width or width < size.width:
        near = size.width * max(1, round(width / size.width))
        raise RecipeError(f"--width {width} is no multiple of the student's {size.width}; try --width {near}")
    times, generator = width // size.width, torch.Generator().manual_seed(seed)
    body = copy.deepcopy(student.body)
    _deepen(body, layers)
    table = student.whole_table().clone()
    dense = [copy.deepcopy(module) for module in student.dense]
    if times > 1:
        dense = _widen_dense(dense, size.width, times, generator)
        body, table = _widen(body, times, generator), table.repeat(1, times)
    return TransformerStudent(table, settings, body=body, dense=dense)


def _deepen(body: Any, num_layers: int) -> None:
    """Spread the new layers evenly, each above one that stands."""
    old = list(body.encoder.layer)
    sources = [number * len(old) // num_layers for number in range(num_layers)]
    layers: list[Any] = []
    for number, layer in enumerate(old):
        layers += _stack(layer, sources.count(number), body.config)
    body.encoder.layer = nn.ModuleList(layers)
    body.config.num_hidden_layers = num_layers


@torch.no_grad()
def _stack(layer: Any, count: int, config: Any) -> list[Any]:
    """Return the layer with `count` - 1 layers above it that give back what they get."""
    stack = [layer, *(_identity_above(layer, config) for _ in range(count - 1))]
    for lower, _ in pairwise(stack):
        _reset(lower.output.LayerNorm)  # the topmost one keeps gain and shift
    return stack


def _identity_above(layer: Any, config: Any) -> Any:
    above = copy.deepcopy(layer, {id(config): config})
    for part in ("query", "key", "value"):
        _fold(getattr(above.attention.self, part), above.output.LayerNorm)
    _fold(above.intermediate.dense, above.attention.output.LayerNorm)
    _reset(above.attention.output.LayerNorm)
    for silent in (above.attention.output.dense, above.output.dense):
        silent.weight.zero_()
        silent.bias.zero_()
    return above


def _fold(linear: Any, norm: Any) -> None:
    """Let a linear map of bare normalised states give what it gives for states with the norm's gain and shift."""
    linear.bias += linear.weight @ norm.bias
    linear.weight *= norm.weight


def _reset(norm: Any) -> None:
    norm.weight.fill_(1.0)
    norm.bias.zero_()


def _widen(body: Any, times: int, generator: torch.Generator) -> Any:
    """Return a body of `times` the width, the heads, and the feed-forward width."""
    config = copy.deepcopy(body.config)
    for name in ("hidden_size", "num_attention_heads", "intermediate_size"):
        setattr(config, name, times * getattr(config, name))
    config.vocab_size = 1
    wide = type(body)(config, add_pooling_layer=False)
    wide.set_input_embeddings(nn.Identity())
    state = {}
    for name, value in body.state_dict().items():
        if value.ndim == 1:
            state[name] = value.repeat(times)
        elif ".embeddings." in f".{name}":
            state[name] = value.repeat(1, times)
        else:
            state[name] = _split(value.repeat(times, 1), times, generator)
    wide.load_state_dict(state)
    wide.set_attn_implementation(body.config._attn_implementation)
    return wide


def _widen_dense(dense: list[Any], width: int, times: int, generator: torch.Generator) -> list[Any]:
    """Let the first dense layer read the wide state; make one that gives the narrow vector where there is none."""
    from sentence_transformers.sentence_transformer.modules import Dense

    if not dense:
        narrow = Dense(width, width, bias=False, activation_function=None, init_weight=torch.eye(width))
        dense = [narrow]
    first = dense[0]
    if first.use_residual:
        raise RecipeError("the student's dense layer adds its input; such a student cannot be widened, only deepened")
    first.linear.weight = nn.Parameter(_split(first.linear.weight.detach(), times, generator))
    first.in_features = first.linear.in_features = width * times
    return dense


def _split(weight_OI: Tensor, times: int, generator: torch.Generator) -> Tensor:
    """(O, times · I): share each weight among the copies of its input unit, unequally, with the sum kept."""
    noise = torch.rand(times, *weight_OI.shape, generator=generator) - 0.5
    shares = (1.0 + noise - noise.mean(dim=0)) / times
    return torch.cat([weight_OI * share for share in shares], dim=1)


def _size(student: TransformerStudent) -> BodyRecipe:
    config = student.body.config
    return BodyRecipe(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        feed_forward=config.intermediate_size,
    )


@torch.no_grad()
def _difference(before: TransformerStudent, after: TransformerStudent, tokenizer: Any) -> float:
    from kdserve import samples

    worst = 0.0
    for sentences in samples.parallel().values():
        for text in sentences[:20]:
            ids = torch.tensor([tokenizer.encode(text).ids[: before.max_tokens]])
            vectors = [student.eval()(ids, torch.ones_like(ids)).vectors_BD for student in (before, after)]
            worst = max(worst, float((vectors[0] - vectors[1]).abs().max()))
    return worst


def _card(name: str, growth: Growth) -> str:
    before, after = (
        f"{size.layers} layers of {size.width} ({size.heads} heads, feed-forward {size.feed_forward})"
        for size in (growth.before, growth.after)
    )
    return (
        f"# {name}, grown\n\nFrom {before} to {after}, with the same vectors (largest difference on the sample "
        f"sentences {growth.max_difference:.1e}). A start for training: name this folder as `student.start`.\n"
    )
