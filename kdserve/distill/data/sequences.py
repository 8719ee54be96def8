"""What a student that writes learns from: pairs that passed, their tokens, and a teacher's soft labels of them.

Letters: P pairs, B batch, T and L tokens read and written, K tokens kept of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdserve.distill.data.batches import Batch
from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.sampling import TextSampler, pair_shares
from kdserve.distill.data.tokens import Runs
from kdserve.recipe import WriterTrainRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftLabels:
    """A teacher's likeliest tokens and their log probabilities (tokens, K), in the order of the targets' tokens."""

    tokens: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True, slots=True)
class WritingBatch(Batch):
    """Beside the ids and mask that are read: labels (B, L), and a teacher's K likeliest tokens at each of them."""

    written_BL: Tensor
    top_BLK: Tensor | None = None
    score_BLK: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WritingData:
    """Pairs by number: `trained` and `held_out` ones, what each reads (P rows), and what each is to write (P rows).

    `references` (P rows) are what people wrote. `num_filtered` pairs did not pass.
    """

    corpus: Corpus
    trained: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]
    read: Runs
    written: Runs
    references: Runs
    paddings: tuple[int, int]
    num_filtered: int
    soft: SoftLabels | None = None

    def batch(self, pairs: npt.NDArray[np.int64], *, references: bool = False) -> WritingBatch:
        """Return a batch of these pairs, with what is learned or with the references."""
        ids, mask = self.read.filled(pairs, self.paddings[0])
        written = self.references if references else self.written
        labels, real = written.filled(pairs, self.paddings[1])
        labels = labels.masked_fill(real == 0, NO_TOKEN)
        soft = self._soft(pairs, real) if self.soft and not references else {}
        return WritingBatch(ids_BT=ids, mask_BT=mask, written_BL=labels, target_B=torch.from_numpy(pairs), **soft)

    def _soft(self, pairs: npt.NDArray[np.int64], real_BL: Tensor) -> dict[str, Tensor]:
        assert self.soft is not None
        starts = self.written.offsets[pairs]
        lengths = self.written.offsets[pairs + 1] - starts
        at = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        parts = {"top_BLK": self.soft.tokens[at].astype(np.int64), "score_BLK": self.soft.scores[at].astype(np.float32)}
        found = {}
        for name, values in parts.items():
            whole = torch.zeros((*real_BL.shape, values.shape[-1]), dtype=torch.from_numpy(values).dtype)
            whole[real_BL.bool()] = torch.from_numpy(values)
            found[name] = whole
        return found

    def sampler(self, train: WriterTrainRecipe, *, seed: int) -> TextSampler:
        """Draw pairs: languages by `train.temperature`, inside a language by weight."""
        return TextSampler(
            texts=self.trained,
            cumulative=np.cumsum(pair_shares(self.corpus, self.trained, temperature=train.temperature)),
            lengths=self.read.lengths + self.written.lengths,
            batch_size=train.batch_size,
            seed=seed,
        )

    def batches(self, train: WriterTrainRecipe, *, seed: int, start: int, stride: int, offset: int) -> Iterator[Batch]:
        """Yield batches from step `start` on."""
        for pairs in self.sampler(train, seed=seed).batches(start=start, stride=stride, offset=offset):
            yield self.batch(pairs)


NO_TOKEN = -100
"""What labels are filled up with: no loss is taken there."""
