"""A run: a student before its first step and all that its training takes; then the folder of what came out.

Every task goes this one road. What is a task's own stands in its `Task` and in the fields of its `Run`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.card import Outcome, count_pairs, draw_curve
from kdserve.distill.data.batches import TrainingData
from kdserve.distill.data.corpus import SOURCE
from kdserve.distill.data.sequences import WritingData
from kdserve.distill.students.embedder import Student, save_student
from kdserve.distill.training.task import Task
from kdserve.distill.training.trainer import Trainer
from kdserve.manifest import write_manifest
from kdserve.model_settings import StudentSettings
from kdserve.recipe import Recipe, SequenceRecipe, recipe_record
from kdserve.staging import staged_folder

WriteOwn = Callable[[Outcome, Path], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(ABC):
    """All that a recipe's training takes, whatever its task.

    `parents` are the fingerprints of its teacher and of the students that it goes on from; `key` says what a checkpoint
    depends on.
    """

    recipe: Recipe | SequenceRecipe
    work: Path
    key: str
    task: Task
    data: TrainingData | WritingData
    parents: Mapping[str, str]

    @property
    def student(self) -> nn.Module:
        """Model that is trained."""
        return self.task.student

    def trainer(self) -> Trainer:
        """Return the loop around the task; its checkpoints and its log lie in `work`/train."""
        recipe = self.recipe
        return Trainer(
            self.task,
            recipe.train,
            self.work / "train",
            key=self.key,
            seed=recipe.seed,
            starts_trained=bool(recipe.student.start),
        )

    def train(self, *, progress: Progress = no_progress) -> Outcome:
        """Train to the last step, going on where a run before was stopped; the student keeps the best weights.

        Raises:
            TrainingError: the loss is NaN or the student is of no use; says at which step.
        """
        trainer = self.trainer()
        accuracy = trainer.run(progress=progress)
        trainer.accelerator.wait_for_everyone()
        corpus = self.data.corpus
        return Outcome(
            accuracy=accuracy,
            best_step=trainer.best_step,
            num_pairs=count_pairs(corpus),
            domains=corpus.domains,
        )

    @abstractmethod
    def save(self, outcome: Outcome, out: Path) -> None:
        """Write the student's folder, whole or not at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingRun(Run):
    """The run of a student that embeds, or of a classifier over it.

    `encoder` is the embedding part of what the task trains. `write_own` writes what only this task has into the
    student's folder: its card, a head. `measure` says what the accuracy is the share of.
    """

    recipe: Recipe
    data: TrainingData
    encoder: Student
    tokenizer: Tokenizer
    dim: int
    write_own: WriteOwn
    measure: str
    labels: tuple[str, ...] = ()
    prompts: tuple[str, str] = ("", "")

    def save(self, outcome: Outcome, out: Path) -> None:
        """Write the student's folder, whole or not at all."""
        recipe, languages = self.recipe, self.recipe.covered(self.data.corpus.languages)
        with staged_folder(out) as folder:
            encoder, most = self.encoder.cpu(), recipe.student.max_tokens
            save_student(encoder, self.tokenizer, folder, max_tokens=most, prompts=self.prompts)
            draw_curve(self.work / "train" / "log.jsonl", folder / "curve.png", title=recipe.name, measure=self.measure)
            self.write_own(outcome, folder)
            accuracy = {"languages": outcome.accuracy.by_language, "domains": outcome.accuracy.by_domain}
            write_manifest(
                folder,
                kind="student",
                parents=dict(self.parents),
                settings=StudentSettings(
                    name=recipe.name,
                    family=recipe.family,
                    dim=self.dim,
                    max_tokens=most,
                    languages=tuple(sorted({SOURCE, *languages})),
                    weak_languages=tuple(sorted(recipe.weak_languages)),
                    table_bits=recipe.student.table_bits,
                    labels=self.labels,
                    recipe=recipe_record(recipe),
                    accuracy=accuracy,
                ).to_json(),
            )
