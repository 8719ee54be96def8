"""The trainer of classifiers: the embedder's loop, with labels for vectors.

Letters: B batch, T tokens, K labels, P translations, S source sentences. A text has a number as in the corpus.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kdserve.distill.batches import TrainingData, drop_tokens
from kdserve.distill.classifier.student import ClassifierStudent, run_over
from kdserve.distill.corpus import SOURCE
from kdserve.distill.layers import LayerDistillation
from kdserve.distill.objectives import soft_label_loss
from kdserve.distill.sampling import make_sampler
from kdserve.distill.student import Student
from kdserve.distill.tokens import TokenStore
from kdserve.distill.training import Trainer
from kdserve.distill.validation import MIN_PAIRS, Accuracy
from kdserve.distill.vocabulary import PAD
from kdserve.errors import TrainingError
from kdserve.recipe import Recipe

NO_LABEL = NO_SOURCE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class HardTexts:
    """Texts with labels (N,), and the teacher's log-probabilities (N, K), NaN where it does not read the language."""

    tokens: TokenStore
    label_N: npt.NDArray[np.int64]
    scores_NK: npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lessons:
    """What is learned beside the teacher's log-probabilities of the corpus, and the texts to judge the student by.

    `label_of` (P + S,) is the number of each text's own label, where there is no teacher.
    """

    labels: tuple[str, ...]
    held_out: npt.NDArray[np.int64]
    label_of: npt.NDArray[np.int64] | None = None
    hard: HardTexts | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelBatch:
    """Ids and mask (B, T); the teacher's log-probabilities (B, K), NaN where it gave none; labels (B,) or NO_LABEL.

    `target_B` numbers each text's source sentence in the corpus, or is NO_SOURCE.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    teacher_BK: Tensor
    label_B: Tensor
    target_B: Tensor

    def to(self, device: torch.device) -> LabelBatch:
        """Move every part."""
        return LabelBatch(**{part.name: getattr(self, part.name).to(device) for part in dataclasses.fields(self)})

    def __add__(self, other: LabelBatch) -> LabelBatch:
        """Put the rows of `other` behind these."""
        width = max(self.ids_BT.shape[1], other.ids_BT.shape[1])
        ids = [functional.pad(part.ids_BT, (0, width - part.ids_BT.shape[1]), value=PAD) for part in (self, other)]
        mask = [functional.pad(part.mask_BT, (0, width - part.mask_BT.shape[1])) for part in (self, other)]
        return LabelBatch(
            ids_BT=torch.cat(ids),
            mask_BT=torch.cat(mask),
            teacher_BK=torch.cat([self.teacher_BK, other.teacher_BK]),
            label_B=torch.cat([self.label_B, other.label_B]),
            target_B=torch.cat([self.target_B, other.target_B]),
        )


class ClassifierTrainer(Trainer):
    """Trains a classifier in place. The best weights are those that name most held-out texts as expected."""

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        student: ClassifierStudent,
        work: Path,
        *,
        key: str,
        lessons: Lessons,
        layers: LayerDistillation | None = None,
    ) -> None:
        self.lessons = lessons
        self.classifier = student
        super().__init__(recipe, data, cast(Student, student), work, key=key, layers=layers)

    def loss_of(self, loaded: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """alpha · T² · KL over the texts with soft labels + (1 - alpha) · cross-entropy over those with a label."""
        made = self.recipe.classifier
        with self.accelerator.autocast():
            mask_BT = drop_tokens(loaded.mask_BT, self.recipe.train.token_dropout)
            logits_BK = self.model(loaded.ids_BT, mask_BT).float()
        values: dict[str, Tensor] = {}
        loss = 0.0 * logits_BK.sum()  # a batch without any label still has a gradient
        soft_B, hard_B = ~loaded.teacher_BK.isnan().any(dim=-1), loaded.label_B != NO_LABEL
        alpha = made.alpha if self.lessons.label_of is None else 0.0
        if alpha and soft_B.any():
            soft = soft_label_loss(logits_BK[soft_B], loaded.teacher_BK[soft_B], temperature=made.temperature)
            loss, values["soft"] = loss + alpha * soft, soft.detach()
        if alpha < 1 and hard_B.any():
            hard = functional.cross_entropy(logits_BK[hard_B], loaded.label_B[hard_B])
            loss, values["hard"] = loss + (1 - alpha) * hard, hard.detach()
        if self.layers:
            with self.accelerator.autocast():
                inside = self.layers(self.classifier.encoder, loaded.target_B[loaded.target_B != NO_SOURCE])
            for name, (weight, value) in inside.items():
                loss, values[name] = loss + weight * value, value.detach()
        return loss, values

    def load_batches(self) -> Iterator[Any]:
        """Yield batches: texts of the corpus, and labelled texts behind them."""
        train, hard = self.recipe.train, self.lessons.hard
        num_hard = round(self.recipe.classifier.label_share * train.batch_size) if hard else 0
        shared = dataclasses.replace(train, batch_size=train.batch_size - num_hard)
        sampler = make_sampler(self.data.corpus, self.data.tokens.lengths, shared, seed=self.recipe.seed)
        stride, offset = self.accelerator.num_processes, self.accelerator.process_index
        for step, texts in enumerate(sampler.batches(start=self.step, stride=stride, offset=offset), self.step):
            batch = self._corpus_part(texts, self.splits(step * stride + offset))
            if hard and num_hard:
                rng = np.random.default_rng([self.recipe.seed, 7, step, offset])
                batch += self._hard_part(hard, rng.integers(len(hard.label_N), size=num_hard))
            yield batch.to(self.accelerator.device)

    def _corpus_part(self, texts: npt.NDArray[np.int64], splits: np.random.Generator) -> LabelBatch:
        ids, mask = self.data.tokens.padded(texts, wrap=self.classifier.wraps, splits=splits)
        if self.lessons.label_of is None:
            label, scores = np.full(len(texts), NO_LABEL), self._teacher_scores(texts)
        else:
            label = self.lessons.label_of[texts]
            scores = np.full((len(texts), len(self.lessons.labels)), np.nan, dtype=np.float32)
        return LabelBatch(
            ids_BT=ids,
            mask_BT=mask,
            teacher_BK=torch.from_numpy(scores),
            label_B=torch.from_numpy(label),
            target_B=torch.from_numpy(self.data.corpus.sources_of(texts)),
        )

    def _hard_part(self, hard: HardTexts, rows: npt.NDArray[np.int64]) -> LabelBatch:
        ids, mask = hard.tokens.padded(rows, wrap=self.classifier.wraps)
        scores, label = torch.from_numpy(hard.scores_NK[rows].astype(np.float32)), torch.from_numpy(hard.label_N[rows])
        none = torch.full_like(label, NO_SOURCE)
        return LabelBatch(ids_BT=ids, mask_BT=mask, teacher_BK=scores, label_B=label, target_B=none)

    def parameter_groups(self, modules: Sequence[torch.nn.Module]) -> list[dict[str, Any]]:
        """Return the encoder's groups as ever, and the head with its own rate."""
        groups = super().parameter_groups([self.classifier.encoder, *modules[1:]])
        head = {"params": list(self.classifier.head.parameters()), "rate": self.recipe.classifier.head_rate}
        return [*groups, {**head, "weight_decay": 0.0}]

    def measure(self) -> Accuracy:
        """Return the shares of held-out texts, by language and domain, that get the expected label."""
        corpus, texts = self.data.corpus, self.lessons.held_out
        if not len(texts):
            return Accuracy(by_language={}, by_domain={})
        was_training = self.classifier.training
        self.classifier.eval()
        device, wrap = self.accelerator.device, self.classifier.wraps
        logits_NK = run_over(self.classifier, self.data.tokens, texts, wrap=wrap, device=device)
        self.classifier.train(was_training)
        if not logits_NK.isfinite().all():
            raise TrainingError(f"the student's logits are NaN at step {self.step}; lower the rates of train")
        right = logits_NK.argmax(dim=-1).numpy() == self._expected(texts)
        num_pairs = len(corpus.source_of)
        is_pair, pairs = texts < num_pairs, texts.clip(max=num_pairs - 1)
        languages = np.where(is_pair, np.array(corpus.languages)[corpus.language_of[pairs]], SOURCE)
        domains = np.array(corpus.domains)[corpus.domain_of[pairs]]
        return Accuracy(by_language=_shares(right, languages), by_domain=_shares(right[is_pair], domains[is_pair]))

    def require_sane_student(self) -> None:
        """Nothing beyond what `measure` refuses: a classifier has no vectors that could collapse."""

    def _expected(self, texts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.lessons.label_of is not None:
            return self.lessons.label_of[texts]
        expected: npt.NDArray[np.int64] = self._teacher_scores(texts).argmax(axis=-1)
        return expected

    def _teacher_scores(self, texts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the teacher's log-probabilities of the texts' sources: (N, K)."""
        data = self.data
        return data.vectors[data.row_of[data.corpus.sources_of(texts)]].astype(np.float32)


def _shares(right: npt.NDArray[np.bool_], groups: npt.NDArray[np.str_]) -> dict[str, float]:
    names, counts = np.unique(groups, return_counts=True)
    return {
        str(name): round(float(right[groups == name].mean()), 5)
        for name, count in zip(names, counts, strict=True)
        if count >= MIN_PAIRS
    }
