"""The task of naming labels: a teacher's soft ones, and those that texts have.

Letters: B batch, T tokens, K labels, P translations, S source sentences. A text has a number as in the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdserve.distill.data.batches import Batch, TrainingData, drop_tokens
from kdserve.distill.data.corpus import SOURCE
from kdserve.distill.data.sampling import make_sampler
from kdserve.distill.data.tokens import TokenStore
from kdserve.distill.data.vocabulary import PAD
from kdserve.distill.objectives.layers import LayerDistillation
from kdserve.distill.objectives.vectors import soft_label_loss
from kdserve.distill.streams import Stream, random_stream
from kdserve.distill.students.classifier import ClassifierStudent
from kdserve.distill.students.inference import run_over
from kdserve.distill.tasks.embedding import embedder_groups
from kdserve.distill.training.task import Autocast, Losses, ParameterGroup
from kdserve.distill.training.validation import MIN_PAIRS, Accuracy
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
    """Labels learned beside the teacher's log-probabilities of the corpus, and the texts to judge the student by.

    `label_of` (P + S,) is the number of each text's own label, where there is no teacher.
    """

    labels: tuple[str, ...]
    held_out: npt.NDArray[np.int64]
    label_of: npt.NDArray[np.int64] | None = None
    hard: HardTexts | None = None


class ClassificationTask:
    """Learn labels. The best weights are those that name most held-out texts as expected."""

    what = "training"

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        student: ClassifierStudent,
        lessons: Lessons,
        *,
        layers: LayerDistillation | None = None,
    ) -> None:
        assert recipe.classifier is not None
        self.settings = recipe.classifier
        self.recipe, self.data, self.student, self.lessons, self.layers = recipe, data, student, lessons, layers
        self.beside: Mapping[str, nn.Module] = {"layers": layers} if layers else {}

    def to(self, device: torch.device) -> None:
        """Move the student and all beside it."""
        for module in (self.student, *self.beside.values()):
            module.to(device)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the encoder's groups as an embedder's, and the head with its own rate."""
        groups = embedder_groups([self.student.encoder, *self.beside.values()], self.recipe.train)
        head = list(self.student.head.parameters())
        return [*groups, {"params": head, "rate": self.settings.head_rate, "weight_decay": 0.0}]

    def losses(self, model: nn.Module, batch: Batch, *, step: int, autocast: Autocast) -> Losses:  # noqa: ARG002
        """alpha · T² · KL over the texts with soft labels + (1 - alpha) · cross-entropy over those with a label."""
        settings = self.settings
        assert batch.teacher_BD is not None
        assert batch.label_B is not None
        with autocast():
            logits_BK = model(batch.ids_BT, drop_tokens(batch.mask_BT, self.recipe.train.token_dropout)).float()
            losses: Losses = {}
            if self.layers:
                losses |= self.layers(self.student.encoder, batch.target_B[batch.target_B != NO_SOURCE])
        soft_B, hard_B = ~batch.teacher_BD.isnan().any(dim=-1), batch.label_B != NO_LABEL
        alpha = settings.alpha if self.lessons.label_of is None else 0.0
        if alpha and soft_B.any():
            soft = soft_label_loss(logits_BK[soft_B], batch.teacher_BD[soft_B], temperature=settings.temperature)
            losses["soft"] = alpha, soft
        if alpha < 1 and hard_B.any():
            losses["hard"] = 1 - alpha, functional.cross_entropy(logits_BK[hard_B], batch.label_B[hard_B])
        return losses or {"hard": (1.0, 0.0 * logits_BK.sum())}  # without any label there still is a gradient

    def batches(self, *, start: int, stride: int, offset: int) -> Iterator[Batch]:
        """Yield batches: texts of the corpus, and labelled texts behind them."""
        recipe, hard = self.recipe, self.lessons.hard
        num_hard = round(self.settings.label_share * recipe.train.batch_size) if hard else 0
        shared = replace(recipe.train, batch_size=recipe.train.batch_size - num_hard)
        sampler = make_sampler(self.data.corpus, self.data.tokens.lengths, shared, seed=recipe.seed)
        for step, texts in enumerate(sampler.batches(start=start, stride=stride, offset=offset), start):
            batch = self._corpus_part(texts, random_stream(Stream.TOKEN_SPLITS, recipe.seed, step * stride + offset))
            if hard and num_hard:
                rng = random_stream(Stream.LABELLED_TEXTS, recipe.seed, step, offset)
                batch = _joined(batch, self._hard_part(hard, rng.integers(len(hard.label_N), size=num_hard)))
            yield batch

    def _corpus_part(self, texts: npt.NDArray[np.int64], splits: np.random.Generator) -> Batch:
        ids, mask = self.data.tokens.padded(texts, wrap=self.student.wraps, splits=splits)
        if self.lessons.label_of is None:
            label, scores = np.full(len(texts), NO_LABEL), self._teacher_scores(texts)
        else:
            label = self.lessons.label_of[texts]
            scores = np.full((len(texts), len(self.lessons.labels)), np.nan, dtype=np.float32)
        return Batch(
            ids_BT=ids,
            mask_BT=mask,
            teacher_BD=torch.from_numpy(scores),
            label_B=torch.from_numpy(label),
            target_B=torch.from_numpy(self.data.corpus.sources_of(texts)),
        )

    def _hard_part(self, hard: HardTexts, rows: npt.NDArray[np.int64]) -> Batch:
        ids, mask = hard.tokens.padded(rows, wrap=self.student.wraps)
        scores, label = torch.from_numpy(hard.scores_NK[rows].astype(np.float32)), torch.from_numpy(hard.label_N[rows])
        none = torch.full_like(label, NO_SOURCE)
        return Batch(ids_BT=ids, mask_BT=mask, teacher_BD=scores, label_B=label, target_B=none)

    def measure(self, step: int) -> Accuracy:
        """Return the shares of held-out texts, by language and domain, that get the expected label."""
        corpus, texts = self.data.corpus, self.lessons.held_out
        if not len(texts):
            return Accuracy(by_language={}, by_domain={})
        logits_NK = run_over(self.student, self.student, self.data.tokens, texts, wrap=self.student.wraps)
        if not logits_NK.isfinite().all():
            raise TrainingError(f"the student's logits are NaN at step {step}; lower the rates of train")
        right = logits_NK.argmax(dim=-1).numpy() == self._expected(texts)
        num_pairs = len(corpus.source_of)
        is_pair, pairs = texts < num_pairs, texts.clip(max=num_pairs - 1)
        languages = np.where(is_pair, np.array(corpus.languages)[corpus.language_of[pairs]], SOURCE)
        domains = np.array(corpus.domains)[corpus.domain_of[pairs]]
        return Accuracy(by_language=_shares(right, languages), by_domain=_shares(right[is_pair], domains[is_pair]))

    def _expected(self, texts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.lessons.label_of is not None:
            return self.lessons.label_of[texts]
        expected: npt.NDArray[np.int64] = self._teacher_scores(texts).argmax(axis=-1)
        return expected

    def _teacher_scores(self, texts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the teacher's log-probabilities of the texts' sources: (N, K)."""
        data = self.data
        return data.vectors[data.row_of[data.corpus.sources_of(texts)]].astype(np.float32)


def _joined(first: Batch, second: Batch) -> Batch:
    """Put the rows of the second batch behind those of the first."""
    width = max(first.ids_BT.shape[1], second.ids_BT.shape[1])

    def join(name: str, padding: int | None = None) -> Tensor:
        parts = [getattr(batch, name) for batch in (first, second)]
        if padding is not None:
            parts = [functional.pad(part, (0, width - part.shape[1]), value=padding) for part in parts]
        return torch.cat(parts)

    return Batch(
        ids_BT=join("ids_BT", PAD),
        mask_BT=join("mask_BT", 0),
        teacher_BD=join("teacher_BD"),
        label_B=join("label_B"),
        target_B=join("target_B"),
    )


def _shares(right: npt.NDArray[np.bool_], groups: npt.NDArray[np.str_]) -> dict[str, float]:
    names, counts = np.unique(groups, return_counts=True)
    return {
        str(name): round(float(right[groups == name].mean()), 5)
        for name, count in zip(names, counts, strict=True)
        if count >= MIN_PAIRS
    }
