"""The task of writing what a text says: its translation, its summary.

Letters: B batch, T and L tokens read and written, V vocabulary, K tokens kept of it, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdserve.distill.data.batches import Batch
from kdserve.distill.data.sequences import NO_TOKEN, WritingBatch, WritingData
from kdserve.distill.data.sides import Sides
from kdserve.distill.objectives.writing import InsideDistillation, token_loss
from kdserve.distill.teachers.encoder_decoder import EncoderDecoder
from kdserve.distill.training.task import Autocast, Losses, ParameterGroup
from kdserve.distill.training.validation import MIN_PAIRS, Accuracy
from kdserve.errors import TrainingError
from kdserve.recipe import SequenceRecipe

_BATCH = 32


class WritingTask:
    """Learn to write. The best weights are those whose outputs are nearest to the held-out references by chrF."""

    what = "training"

    def __init__(
        self,
        recipe: SequenceRecipe,
        data: WritingData,
        student: EncoderDecoder,
        sides: Sides,
        *,
        inside: InsideDistillation | None = None,
    ) -> None:
        self.recipe, self.data, self.student, self.sides, self.inside = recipe, data, student, sides, inside
        self.beside: Mapping[str, nn.Module] = {"inside": inside} if inside and any(inside.parameters()) else {}

    def to(self, device: torch.device) -> None:
        """Move the student, and the teacher that runs beside it."""
        self.student.to(device)
        if self.inside:
            self.inside.to(device)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the encoder's table, the rest of the encoder, and what else there is, each with its rate.

        A part whose rate is 0 is not trained.
        """
        train, student = self.recipe.train, self.student
        tables = {id(weight) for weight in student.tables}
        encoder = {id(weight) for weight in student.encoder.parameters()}
        groups: list[ParameterGroup] = []
        parts: dict[float, list[nn.Parameter]] = {}
        for weight in student.parameters():
            in_encoder = id(weight) in encoder
            rate = (
                train.table_rate if id(weight) in tables else train.encoder_rate if in_encoder else train.decoder_rate
            )
            if rate:
                parts.setdefault(rate, []).append(weight)
            else:
                weight.requires_grad_(False)
        for module in self.beside.values():
            parts.setdefault(train.decoder_rate or train.encoder_rate, []).extend(module.parameters())
        for rate, weights in parts.items():
            groups.append({"params": weights, "rate": rate, "weight_decay": train.weight_decay})
        return groups

    def batches(self, *, start: int, stride: int, offset: int) -> Iterator[Batch]:
        """Yield the batches from step `start` on."""
        recipe = self.recipe
        return self.data.batches(recipe.train, seed=recipe.seed, start=start, stride=stride, offset=offset)

    def losses(self, model: nn.Module, batch: Batch, *, step: int, autocast: Autocast) -> Losses:  # noqa: ARG002
        """Return cross-entropy with the targets, KL from the teacher's likeliest tokens, and what is asked inside."""
        assert isinstance(batch, WritingBatch)
        aims, more = self.recipe.objective, self.inside.kept if self.inside else {}
        with autocast():
            output = model(batch.ids_BT, batch.mask_BT, batch.written_BL, **more)
            losses: Losses = self.inside(output, batch) if self.inside else {}
        real = batch.written_BL != NO_TOKEN
        logits_NV, label_N = output.logits[real].float(), batch.written_BL[real]
        if aims.alpha < 1:
            hard = functional.cross_entropy(logits_NV, label_N, label_smoothing=aims.label_smoothing)
            losses["hard"] = 1 - aims.alpha, hard
        if aims.alpha and batch.top_BLK is not None and batch.score_BLK is not None:
            soft = token_loss(logits_NV, batch.top_BLK[real], batch.score_BLK[real], temperature=aims.temperature)
            losses["soft"] = aims.alpha, soft
        return losses

    def measure(self, step: int) -> Accuracy:
        """Write the held-out pairs greedily; return chrF by language and domain, from 0 to 1, and the loss of a token.

        Raises:
            TrainingError: the loss is NaN; says at which step.
        """
        data = self.data
        if not len(data.held_out):
            return Accuracy(by_language={}, by_domain={})
        was_training = self.student.training
        self.student.eval()
        written, loss = self._write(data.held_out)
        self.student.train(was_training)
        if not np.isfinite(loss):
            raise TrainingError(f"the loss is NaN at step {step}; lower the rates of train")
        references = data.corpus.sources.select(data.corpus.source_of[data.held_out].tolist())
        return Accuracy(
            by_language=_chrf(written, references, data.corpus.language_of[data.held_out], data.corpus.languages),
            by_domain=_chrf(written, references, data.corpus.domain_of[data.held_out], data.corpus.domains),
            loss=loss,
        )

    @torch.inference_mode()
    def _write(self, pairs: np.ndarray) -> tuple[list[str], float]:
        """Return what the student writes, and its mean loss of the references' tokens."""
        device = next(self.student.parameters()).device
        order = np.argsort(self.data.read.lengths[pairs], kind="stable")
        texts, total, count = [""] * len(pairs), 0.0, 0
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            batch = self.data.batch(pairs[places], references=True).to(device)
            assert isinstance(batch, WritingBatch)
            logits = self.student(batch.ids_BT, batch.mask_BT, batch.written_BL).logits.float()
            total += float(functional.cross_entropy(logits.flatten(0, 1), batch.written_BL.flatten(), reduction="sum"))
            count += int((batch.written_BL != NO_TOKEN).sum())
            found = self._generate(batch.ids_BT, batch.mask_BT)
            for place, text in zip(places.tolist(), self.sides.texts(found), strict=True):
                texts[place] = text
        return texts, total / max(1, count)

    def _generate(self, ids_BT: Tensor, mask_BT: Tensor) -> list[list[int]]:
        from kdserve.quiet import quiet_transformers

        with quiet_transformers():
            found = self.student.model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.recipe.student.max_output_tokens,
            )
        rows: list[list[int]] = found.tolist()
        return rows


def _chrf(
    written: Sequence[str], references: Sequence[str], groups: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    from sacrebleu.metrics import CHRF

    scores = {}
    for number, count in zip(*np.unique(groups, return_counts=True), strict=True):
        if count >= MIN_PAIRS:
            members = np.flatnonzero(groups == number).tolist()
            sides = [[texts[i] for i in members] for texts in (written, references)]
            scores[names[number]] = round(CHRF().corpus_score(sides[0], [sides[1]]).score / 100, 5)
    return scores
