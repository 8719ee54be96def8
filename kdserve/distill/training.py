"""The training loop: seeded, checkpointed, resumable to the same result; on a CPU, a GPU or several (accelerate)."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.batches import LoadedBatch, TrainingData, drop_tokens
from kdserve.distill.checkpoint import (
    Progressed,
    Tensors,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from kdserve.distill.guide import Guide
from kdserve.distill.hardware import best_device, supports_bf16
from kdserve.distill.layers import LayerDistillation
from kdserve.distill.live import LiveTeacher, Partners
from kdserve.distill.means import Means
from kdserve.distill.objectives import Batch, total_loss
from kdserve.distill.prefetch import prefetch
from kdserve.distill.sampling import make_sampler
from kdserve.distill.student import Student
from kdserve.distill.validation import Accuracy, Validation
from kdserve.errors import TrainingError
from kdserve.recipe import Recipe, TrainRecipe

COLLAPSE_COSINE = 0.95
"""Mean cosine of different sentences above which a student has collapsed onto one vector."""


class Trainer:
    """Trains a student in place; `run` leaves the best weights in it."""

    what = "training"

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        student: Student,
        work: Path,
        *,
        key: str,
        layers: LayerDistillation | None = None,
        guide: Guide | None = None,
        live: LiveTeacher | None = None,
    ) -> None:
        self.recipe, self.data, self.work, self.key = recipe, data, work, key
        precision = "bf16" if _use_bf16(recipe.train) else "no"
        self.accelerator = Accelerator(cpu=best_device() == "cpu", mixed_precision=precision)
        self.student = student.to(self.accelerator.device)
        self.layers, self.guide = layers, guide
        self.live = live.to(self.accelerator.device) if live else None
        modules: list[torch.nn.Module] = [self.student]
        modules += [layers.to(self.accelerator.device)] if layers else []
        self.optimizer = torch.optim.AdamW(self.parameter_groups(modules), betas=(0.9, 0.98), fused=True)
        self.model, self.optimizer = self.accelerator.prepare(self.student, self.optimizer)
        self.average = _copy(self.student)
        self.ends = _copy(self.student) if recipe.train.cycles > 1 else {}
        self.cycle_steps = max(1, recipe.train.steps // recipe.train.cycles)
        validation = recipe.validation
        self.validation = Validation(data.corpus, data.tokens, max_pairs=validation.max_pairs, seed=recipe.seed)
        self.step, self.best, self.best_step = 0, -1.0, 0
        self.means = Means()

    def run(self, *, progress: Progress = no_progress) -> Accuracy:
        """Train to the recipe's last step, resuming where the work folder's checkpoint is.

        Raises:
            TrainingError: the loss is NaN or the student collapses; says at which step.
        """
        train = self.recipe.train
        self._resume()
        if self.step == 0 and self.best < 0:
            self._evaluate({})
        batches = prefetch(self.load_batches(), depth=4)
        started, seen = time.monotonic(), self.step
        self.student.train()
        while self.step < train.steps:
            self.means.add(self._step(next(batches)))
            self.step += 1
            if self.step % 20 == 0 or self.step == train.steps:
                progress(self.what, self.step, train.steps)
            ends = self.step % self.cycle_steps == 0
            if ends and train.cycles > 1:
                num_ends = self.step // self.cycle_steps + bool(self.recipe.student.start)
                _blend(self.ends, self._kept(), 1 - 1 / num_ends)
            if ends or self.step % train.evaluate_every == 0:
                elapsed = max(1e-9, time.monotonic() - started)
                speed = (self.step - seen) * train.batch_size * self.accelerator.num_processes / elapsed
                self._evaluate({**self.means.take(self.step), "texts_per_second": round(speed, 1)})
            if self.step % train.checkpoint_every == 0 or self.step == train.steps:
                self._save("last.safetensors")
        batches.close()
        return self._finish()

    def _step(self, loaded: LoadedBatch) -> dict[str, Tensor]:
        train = self.recipe.train
        rates = _schedule(self.step % self.cycle_steps, self.cycle_steps, train.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * rates
        torch.manual_seed(hash((self.recipe.seed, self.step, self.accelerator.process_index)) % 2**63)
        loss, values = self.loss_of(loaded)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        for parameter in self.layers.parameters() if self.layers else ():  # not behind the student's own averaging
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        if train.clip:
            self.accelerator.clip_grad_norm_(self.student.parameters(), train.clip)
        self.optimizer.step()
        if train.average:
            weights = {name: value for name, value in self.student.named_parameters() if value.requires_grad}
            _blend(self.average, weights, min(train.average, (1 + self.step) / (10 + self.step)))
        return {"loss": loss.detach(), **values}

    def loss_of(self, loaded: LoadedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and its parts for the log."""
        with self.accelerator.autocast():
            encoding = self.model(loaded.ids_BT, drop_tokens(loaded.mask_BT, self.recipe.train.token_dropout))
            source = None
            if loaded.source_ids_BT is not None:
                source = self.model(loaded.source_ids_BT, loaded.source_mask_BT).vectors_BD.float()
            more = self.layers(self.student, loaded.target_B) if self.layers else {}
            teacher = loaded.teacher_BD
            if self.live:
                taught = self.live.teach(loaded.ids_BT, loaded.mask_BT)
                teacher = self.live.targets(taught.vectors_BD, loaded.partner_B)
                more |= self.live.losses(encoding, taught, loaded.mask_BT)
                source = encoding.vectors_BD.float()[loaded.partner_B] if loaded.partner_B is not None else source
            if self.guide:
                more |= self.guide.losses(loaded.ids_BT, loaded.mask_BT, encoding.vectors_BD.float(), step=self.step)
        batch = Batch(
            student_BD=encoding.vectors_BD.float(),
            teacher_BD=teacher,
            target_B=loaded.target_B,
            source_BD=source,
            negatives_ND=loaded.negatives_ND,
            negative_N=loaded.negative_N,
        )
        loss, values = total_loss(batch, self.recipe.objective)
        for name, (weight, value) in more.items():
            loss, values[name] = loss + weight * value, value.detach()
        return loss, values

    def load_batches(self) -> Iterator[LoadedBatch]:
        """Yield the batches from this step on: a pure function of seed and step."""
        targets, train = self.recipe.targets, self.recipe.train
        partners = Partners(self.data.corpus) if targets.partner else None
        train = replace(train, batch_size=train.batch_size // 2) if partners else train
        sampler = make_sampler(self.data.corpus, self.data.tokens.lengths, train, seed=self.recipe.seed)
        stride, offset = self.accelerator.num_processes, self.accelerator.process_index
        num_pairs = len(self.data.corpus.source_of)
        needs_source = self.recipe.objective.translation > 0 and not partners
        drawn = self.recipe.objective.negatives if self.recipe.objective.contrastive else 0
        trained = np.flatnonzero(~self.data.corpus.held_out)

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(self.accelerator.device, non_blocking=True)

        numbers = itertools.count(self.step * stride + offset, stride)
        for number, texts in zip(numbers, sampler.batches(start=self.step, stride=stride, offset=offset), strict=False):
            rng, partner, queries = np.random.default_rng([self.recipe.seed, 9, number]), None, None
            if partners:
                partner = move(torch.arange(2 * len(texts)).roll(len(texts)))
                texts = np.concatenate([texts, partners.draw(texts, rng)])
            if targets.live:
                queries = rng.random(len(texts)) < targets.queries
            target = self.data.corpus.sources_of(texts)
            ids, mask = self.data.tokens.padded(
                texts, wrap=self.student.wraps, splits=self.splits(number), queries_B=queries
            )
            loaded = LoadedBatch(
                ids_BT=move(ids),
                mask_BT=move(mask),
                teacher_BD=move(torch.zeros(0) if targets.live else self.data.targets(target)),
                target_B=move(torch.from_numpy(target)),
                partner_B=partner,
            )
            if needs_source:
                ids, mask = self.data.tokens.padded(target + num_pairs, wrap=self.student.wraps)
                loaded = replace(loaded, source_ids_BT=move(ids), source_mask_BT=move(mask))
            if drawn:
                rng = np.random.default_rng([self.recipe.seed, 7, number])
                chosen = rng.choice(trained, min(drawn, len(trained)), replace=False, shuffle=False)
                vectors = self.data.targets(chosen)
                loaded = replace(loaded, negatives_ND=move(vectors), negative_N=move(torch.from_numpy(chosen)))
            yield loaded

    def splits(self, number: int) -> np.random.Generator:
        """Return what decides which tokens of batch `number` are cut, where the recipe wants some cut."""
        return np.random.default_rng([self.recipe.seed, 8, number])

    def _evaluate(self, record: dict[str, float]) -> None:
        """Measure translation accuracy with the weights to be kept, log it, and keep them where they are the best."""
        trained = _copy(self.student)
        at_end = self.recipe.train.cycles > 1 and self.step % self.cycle_steps == 0
        self.student.load_state_dict(self.ends if at_end else self._kept())
        accuracy = self.measure()
        self.require_sane_student()
        is_best = accuracy.mean > self.best or not accuracy.by_language  # too little held out: the last is kept
        if is_best and self.accelerator.is_main_process:
            self.best, self.best_step = accuracy.mean, self.step
            save_checkpoint(self.work / "best.safetensors", self.student.state_dict(), self._progressed())
        self.student.load_state_dict(trained)
        worst, lowest = accuracy.worst
        line = {
            "step": self.step,
            **record,
            "accuracy": round(accuracy.mean, 5),
            "worst_language": worst,
            "worst_accuracy": lowest,
            "languages": dict(accuracy.by_language),
            "domains": dict(accuracy.by_domain),
        }
        if self.accelerator.is_main_process:
            with (self.work / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")

    def parameter_groups(self, modules: Sequence[torch.nn.Module]) -> list[dict[str, Any]]:
        """Return the optimizer's groups: what is trained, and each group's rate at full speed."""
        table: list[torch.nn.Parameter] = []
        body: list[torch.nn.Parameter] = []
        for module in modules:
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    (table if name in ("table", "expand") else body).append(parameter)
        train = self.recipe.train
        groups: list[dict[str, Any]] = [
            {"params": table, "rate": train.table_rate, "weight_decay": 0.0},
            {"params": body, "rate": train.body_rate, "weight_decay": train.weight_decay},
        ]
        return [group for group in groups if group["params"]]

    def measure(self) -> Accuracy:
        """Measure the student as it is on what was held out."""
        return self.validation.measure(self.student, device=self.accelerator.device)

    def require_sane_student(self) -> None:
        """Refuse to go on with NaN, or with a student that gives one vector to everything."""
        pairs = self.validation.pairs[:256]
        ids, mask = self.data.tokens.padded(pairs, wrap=self.student.wraps)
        with torch.no_grad():
            vectors = self.student(ids.to(self.accelerator.device), mask.to(self.accelerator.device)).vectors_BD.float()
        if len(vectors) < 8:
            return
        cosines = (vectors @ vectors.T)[~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)]
        if not torch.isfinite(cosines).all():
            raise TrainingError(
                f"the student's vectors are NaN at step {self.step}; lower train.body_rate or table_rate"
            )
        if self.step and float(cosines.mean()) > COLLAPSE_COSINE:
            raise TrainingError(
                f"the student collapsed at step {self.step}: different sentences have mean cosine "
                f"{float(cosines.mean()):.3f}; add objective.contrastive or relational, or lower the rates"
            )

    def _finish(self) -> Accuracy:
        tensors, _ = load_checkpoint(self.work / "best.safetensors", key=self.key) or ({}, None)
        self.student.load_state_dict(tensors)
        return self.measure()

    def _resume(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        found = load_checkpoint(self.work / "last.safetensors", key=self.key)
        log = self.work / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() and found else []
        if found:
            tensors, progressed = found
            self.step, self.best, self.best_step = progressed.step, progressed.best, progressed.best_step
            self.student.load_state_dict(_strip(tensors, "student."))
            device = self.accelerator.device
            self.average, self.ends = (
                {name: value.to(device) for name, value in _strip(tensors, prefix).items()}
                for prefix in ("average.", "ends.")
            )
            self.means.load_state({name: value.to(device) for name, value in _strip(tensors, "means.").items()})
            if self.layers:
                self.layers.load_state_dict(_strip(tensors, "layers."))
            restore_optimizer(self.optimizer, tensors)
        if self.accelerator.is_main_process:
            kept = [line for line in lines if json.loads(line)["step"] <= self.step]
            log.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def _save(self, name: str) -> None:
        if self.accelerator.is_main_process:
            layers = self.layers.state_dict() if self.layers else {}
            tensors = {
                **{f"student.{k}": v for k, v in self.student.state_dict().items()},
                **{f"average.{k}": v for k, v in self.average.items() if self.recipe.train.average},
                **{f"ends.{k}": v for k, v in self.ends.items() if self.recipe.train.cycles > 1},
                **{f"layers.{k}": v for k, v in layers.items()},
                **{f"means.{k}": v for k, v in self.means.state().items()},
                **optimizer_tensors(self.optimizer),
            }
            save_checkpoint(self.work / name, tensors, self._progressed())
        self.accelerator.wait_for_everyone()

    def _progressed(self) -> Progressed:
        return Progressed(key=self.key, step=self.step, best=self.best, best_step=self.best_step)

    def _kept(self) -> Tensors:
        """Return this cycle's weights as they would be kept: their running average where the recipe wants one."""
        return self.average if self.recipe.train.average else self.student.state_dict()


def _use_bf16(train: TrainRecipe) -> bool:
    device = torch.device(best_device())
    return train.precision == "bf16" or (train.precision == "auto" and supports_bf16(device))


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then linear decay to zero."""
    rising = max(1, round(warmup * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising), 1.0)


@torch.no_grad()
def _blend(average: Tensors, weights: Mapping[str, Tensor], decay: float) -> None:
    """Move the average towards the weights."""
    names = [name for name, value in weights.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[n] for n in names], [weights[n] for n in names], 1 - decay)


def _copy(student: Student) -> Tensors:
    return {name: value.detach().clone() for name, value in student.state_dict().items()}


def _strip(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
