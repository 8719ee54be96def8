"""The training loop: seeded, checkpointed, resumable to the same result; on a CPU, a GPU or several (accelerate)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.batches import Batch
from kdserve.distill.hardware import best_device, supports_bf16
from kdserve.distill.training.averages import WeightAverages, copy_weights
from kdserve.distill.training.checkpoint import (
    RunState,
    Tensors,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from kdserve.distill.training.metrics import LossMeans
from kdserve.distill.training.prefetch import prefetch
from kdserve.distill.training.task import Task
from kdserve.distill.training.validation import Accuracy
from kdserve.recipe import LoopRecipe

_LAST, _BEST, _LOG = "last.safetensors", "best.safetensors", "log.jsonl"


class Trainer:
    """Trains a task's student in place; `run` leaves the best weights in it."""

    def __init__(
        self, task: Task, train: LoopRecipe, work: Path, *, key: str, seed: int, starts_trained: bool = False
    ) -> None:
        """Make optimizer and averages; `key` names the run, `starts_trained` counts its start among cycles' ends."""
        self.task, self.train, self.work, self.key, self.seed = task, train, work, key, seed
        precision = "bf16" if _use_bf16(train) else "no"
        self.accelerator = Accelerator(cpu=best_device() == "cpu", mixed_precision=precision)
        task.to(self.accelerator.device)
        self.student = task.student
        for module in (self.student, *task.beside.values()):
            for parameter in module.parameters():  # as checkpoints give the optimizer's state back
                parameter.data = parameter.data.contiguous()
        groups: list[Any] = list(task.parameter_groups())
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.model, self.optimizer = self.accelerator.prepare(self.student, self.optimizer)
        self.averages = WeightAverages(self.student, train, starts_trained=starts_trained)
        self.means = LossMeans()
        self.step, self.best, self.best_step = 0, -1.0, 0

    def run(self, *, progress: Progress = no_progress) -> Accuracy:
        """Train to the recipe's last step, resuming where the work folder's checkpoint is.

        Raises:
            TrainingError: the loss is NaN or the student is of no use; says at which step.
        """
        train, cycle_steps = self.train, self._cycle_steps
        self._resume()
        if self.step == 0 and self.best < 0:
            self._evaluate({})
        batches = prefetch(self._batches())
        started, first = time.monotonic(), self.step
        self.student.train()
        while self.step < train.steps:
            self.means.add(self._train_on(next(batches)))
            self.step += 1
            self.averages.count_step(self.step)
            if self.step % 20 == 0 or self.step == train.steps:
                progress(self.task.what, self.step, train.steps)
            if self.step % cycle_steps == 0 or self.step % train.evaluate_every == 0:
                elapsed = max(1e-9, time.monotonic() - started)
                speed = (self.step - first) * train.batch_size * self.accelerator.num_processes / elapsed
                self._evaluate({**self.means.take(self.step), "texts_per_second": round(speed, 1)})
            if self.step % train.checkpoint_every == 0 or self.step == train.steps:
                self._save()
        batches.close()
        return self._finish()

    @property
    def _cycle_steps(self) -> int:
        return max(1, self.train.steps // self.train.cycles)

    def _batches(self) -> Iterator[Batch]:
        processes = self.accelerator
        for batch in self.task.batches(start=self.step, stride=processes.num_processes, offset=processes.process_index):
            yield batch.to(processes.device)

    def _train_on(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step and return what is logged of it."""
        rates = _schedule(self.step % self._cycle_steps, self._cycle_steps, self.train.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * rates
        torch.manual_seed(hash((self.seed, self.step, self.accelerator.process_index)) % 2**63)
        losses = self.task.losses(self.model, batch, step=self.step, autocast=self.accelerator.autocast)
        loss = torch.stack([weight * value for weight, value in losses.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        for module in self.task.beside.values():
            for parameter in module.parameters():  # not behind the student's own averaging over processes
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        if self.train.clip:
            self.accelerator.clip_grad_norm_(self.student.parameters(), self.train.clip)
        self.optimizer.step()
        return {"loss": loss.detach(), **{name: value.detach() for name, (_, value) in losses.items()}}

    def _evaluate(self, record: dict[str, float]) -> None:
        """Measure the weights to be kept, log what is found, and keep them where they are the best."""
        trained = copy_weights(self.student)
        self.student.load_state_dict(self.averages.kept(self.step))
        accuracy = self.task.measure(self.step)
        is_measured = accuracy.by_language or accuracy.questions
        is_best = accuracy.score > self.best or not is_measured  # too little held out: the last is kept
        if is_best and self.accelerator.is_main_process:
            self.best, self.best_step = accuracy.score, self.step
            save_checkpoint(self.work / _BEST, self.student.state_dict(), self._state())
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
        if accuracy.questions:
            line["questions"] = dict(accuracy.questions)
        if accuracy.loss is not None:
            line["held_out_loss"] = round(accuracy.loss, 5)
        if self.accelerator.is_main_process:
            with (self.work / _LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")

    def _finish(self) -> Accuracy:
        tensors, _ = load_checkpoint(self.work / _BEST, key=self.key) or ({}, None)
        self.student.load_state_dict(tensors)
        return self.task.measure(self.best_step)

    def _resume(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        found = load_checkpoint(self.work / _LAST, key=self.key)
        log = self.work / _LOG
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() and found else []
        if found:
            tensors, state = found
            self.step, self.best, self.best_step = state.step, state.best, state.best_step
            self.student.load_state_dict(_strip(tensors, "student."))
            for name, module in self.task.beside.items():
                module.load_state_dict(_strip(tensors, f"{name}."))
            self.averages.load_state(tensors)
            device = self.accelerator.device
            self.means.load_state({name: value.to(device) for name, value in _strip(tensors, "means.").items()})
            restore_optimizer(self.optimizer, tensors)
        if self.accelerator.is_main_process:
            kept = [line for line in lines if json.loads(line)["step"] <= self.step]
            log.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            modules = {"student": self.student, **self.task.beside}
            tensors = {
                **{f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()},
                **{f"means.{k}": v for k, v in self.means.state().items()},
                **self.averages.state(),
                **optimizer_tensors(self.optimizer),
            }
            save_checkpoint(self.work / _LAST, tensors, self._state())
        self.accelerator.wait_for_everyone()

    def _state(self) -> RunState:
        return RunState(key=self.key, step=self.step, best=self.best, best_step=self.best_step)


def _use_bf16(train: LoopRecipe) -> bool:
    device = torch.device(best_device())
    return train.precision == "bf16" or (train.precision == "auto" and supports_bf16(device))


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then linear decay to zero."""
    rising = max(1, round(warmup * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising), 1.0)


def _strip(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
