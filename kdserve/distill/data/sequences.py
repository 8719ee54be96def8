"""What a student that writes learns from: pairs that passed, their tokens, and a teacher's soft labels of them.

Letters: P pairs, B batch, T and L tokens read and written, K tokens kept of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdserve.distill.data.batches import Batch
from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.sampling import TextSampler, language_shares
from kdserve.distill.data.splitting import gather_runs
from kdserve.distill.kept import keep, kept
from kdserve.recipe import WriterTrainRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Token rows, one behind the other: row i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each row."""
        return np.diff(self.offsets).astype(np.int32)

    def filled(self, rows: npt.NDArray[np.int64], padding: int) -> tuple[Tensor, Tensor]:
        """Return rows as (B, T), filled up, and their mask."""
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        real = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
        ids = np.full(real.shape, padding, dtype=np.int64)
        ids[real] = gather_runs(self.ids, starts, lengths)
        return torch.from_numpy(ids), torch.from_numpy(real.astype(np.int64))


def keep_runs(folder: Path, *, key: str, rows: Iterable[list[list[int]]]) -> Runs:
    """Write token rows, given in chunks, into `folder`, or open what was written there under the same key."""
    record, ids_path, offsets_path = folder / "runs.json", folder / "ids.i32", folder / "offsets.npy"
    if kept(record, key) is None:
        folder.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        lengths: list[int] = []
        with ids_path.open("wb") as file:
            for part in rows:
                lengths += map(len, part)
                file.write(np.fromiter(chain.from_iterable(part), dtype=np.int32).tobytes())
        np.save(offsets_path, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        keep(record, key, files=[ids_path, offsets_path])
    ids = np.memmap(ids_path, dtype=np.int32, mode="r")
    return Runs(ids=ids, offsets=np.load(offsets_path))


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
        pairs, corpus = self.trained, self.corpus
        languages, weights = corpus.language_of[pairs], corpus.weight_of[pairs].astype(np.float64)
        totals = np.bincount(languages, weights=weights, minlength=len(corpus.languages))
        shares = np.zeros(len(corpus.languages))
        for language, share in language_shares(languages, temperature=train.temperature).items():
            shares[language] = share
        pair_shares = weights * (shares / np.maximum(totals, 1e-12))[languages]
        return TextSampler(
            texts=pairs,
            cumulative=np.cumsum(pair_shares),
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
