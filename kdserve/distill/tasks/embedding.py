"""The task of embedding texts as the teacher embeds them, or what they are translated from.

Letters: B batch, T tokens, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from kdserve.distill.data.batches import Batch, TrainingData, drop_tokens
from kdserve.distill.data.partners import Partners, join_texts
from kdserve.distill.data.sampling import make_sampler
from kdserve.distill.objectives.guide import Guide
from kdserve.distill.objectives.layers import LayerDistillation
from kdserve.distill.objectives.live import LiveTeacher
from kdserve.distill.objectives.vectors import embedding_losses
from kdserve.distill.streams import Stream, random_stream
from kdserve.distill.students.embedder import Student
from kdserve.distill.training.task import Autocast, Losses, ParameterGroup
from kdserve.distill.training.validation import Accuracy, Validator
from kdserve.recipe import Recipe, TrainRecipe


class EmbeddingTask:
    """Learn the teacher's vectors: from a cache, or live beside the student."""

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        student: Student,
        validator: Validator,
        *,
        what: str = "training",
        layers: LayerDistillation | None = None,
        guide: Guide | None = None,
        live: LiveTeacher | None = None,
    ) -> None:
        self.recipe, self.data, self.student, self.validator, self.what = recipe, data, student, validator, what
        self.layers, self.guide, self.live = layers, guide, live
        self.beside: Mapping[str, nn.Module] = {"layers": layers} if layers else {}

    def to(self, device: torch.device) -> None:
        """Move student, teacher and all beside them."""
        for module in (self.student, self.layers, self.live):
            if module is not None:
                module.to(device)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the token table with its rate and the rest with the body's."""
        return embedder_groups([self.student, *self.beside.values()], self.recipe.train)

    def measure(self, step: int) -> Accuracy:
        """Judge the student by the validator that was given."""
        return self.validator.measure(self.student, step)

    def losses(self, model: nn.Module, batch: Batch, *, step: int, autocast: Autocast) -> Losses:
        """Return the objectives, and what layers, live teacher and guide say."""
        more: Losses = {}
        with autocast():
            encoding = model(batch.ids_BT, drop_tokens(batch.mask_BT, self.recipe.train.token_dropout))
            vectors_BD, source_BD, teacher_BD = encoding.vectors_BD.float(), None, batch.teacher_BD
            if batch.source_ids_BT is not None:
                source_BD = model(batch.source_ids_BT, batch.source_mask_BT).vectors_BD.float()
            if self.layers:
                more |= self.layers(self.student, batch.target_B)
            if self.live:
                taught = self.live.teach(batch.ids_BT, batch.mask_BT)
                teacher_BD = self.live.targets(taught.vectors_BD, batch.partner_B, batch.place_B2)
                more |= self.live.losses(encoding, taught, batch.mask_BT)
                source_BD = vectors_BD[batch.partner_B] if batch.partner_B is not None else source_BD
            if self.guide:
                more |= self.guide.losses(batch.ids_BT, batch.mask_BT, vectors_BD, step=step)
        assert teacher_BD is not None
        return (
            embedding_losses(
                vectors_BD,
                teacher_BD,
                batch.target_B,
                self.recipe.objective,
                source_BD=source_BD,
                negatives_ND=batch.negatives_ND,
                negative_N=batch.negative_N,
            )
            | more
        )

    def batches(self, *, start: int, stride: int, offset: int) -> Iterator[Batch]:
        """Yield the batches from step `start` on."""
        recipe, data = self.recipe, self.data
        partners = Partners(data.corpus) if recipe.targets.partner else None
        lengths, prompt = data.tokens.lengths, max(map(len, data.tokens.prompts))
        room = recipe.student.max_tokens - 2 * int(self.student.wraps) - prompt
        sampler = make_sampler(data.corpus, lengths, recipe.train, seed=recipe.seed, partners=partners)
        trained = np.flatnonzero(~data.corpus.held_out)
        numbers = itertools.count(start * stride + offset, stride)
        for number, texts in zip(numbers, sampler.batches(start=start, stride=stride, offset=offset), strict=False):
            drawn = random_stream(Stream.PARTNERS, recipe.seed, number)
            joined = None
            if partners and drawn.random() < recipe.train.joined:
                joined = join_texts(texts.reshape(2, -1), data.corpus, lengths, most=room, rng=drawn)
            texts, joined_B = joined or (texts, None)
            first = texts if joined_B is None else texts[np.cumsum(joined_B) - joined_B]
            queries_B = (drawn.random(len(first)) < recipe.targets.queries) & (joined_B is None)
            splits = random_stream(Stream.TOKEN_SPLITS, recipe.seed, number)
            target_B = data.corpus.sources_of(first)
            ids_BT, mask_BT = data.tokens.padded(
                texts, wrap=self.student.wraps, splits=splits, queries_B=queries_B, joined_B=joined_B
            )
            batch = Batch(
                ids_BT=ids_BT,
                mask_BT=mask_BT,
                target_B=torch.from_numpy(target_B),
                teacher_BD=None if recipe.targets.live else data.targets(target_B),
                partner_B=torch.arange(len(first)).roll(len(first) // 2) if partners else None,
            )
            if recipe.targets.live:
                places = np.stack([data.corpus.languages_of(first), queries_B.astype(np.int64)], axis=1)
                batch = replace(batch, place_B2=torch.from_numpy(places))
            if recipe.objective.translation and not partners:
                sources = target_B + len(data.corpus.source_of)
                ids_BT, mask_BT = data.tokens.padded(sources, wrap=self.student.wraps, queries_B=queries_B)
                batch = replace(batch, source_ids_BT=ids_BT, source_mask_BT=mask_BT)
            if recipe.objective.negatives and recipe.objective.contrastive:
                most = min(recipe.objective.negatives, len(trained))
                rng = random_stream(Stream.NEGATIVES, recipe.seed, number)
                chosen = rng.choice(trained, most, replace=False, shuffle=False)
                batch = replace(batch, negatives_ND=data.targets(chosen), negative_N=torch.from_numpy(chosen))
            yield batch


def embedder_groups(modules: list[nn.Module], train: TrainRecipe) -> list[ParameterGroup]:
    """Return the trained parameters of these modules: token tables with their rate, the rest with the body's."""
    table: list[nn.Parameter] = []
    body: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                (table if name in ("table", "expand") else body).append(parameter)
    groups: list[ParameterGroup] = [
        {"params": table, "rate": train.table_rate, "weight_decay": 0.0},
        {"params": body, "rate": train.body_rate, "weight_decay": train.weight_decay},
    ]
    return [group for group in groups if group["params"]]
