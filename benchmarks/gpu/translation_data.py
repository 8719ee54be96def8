"""The pairs of `translation.py` on the device, tokenised before the first step, and the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from translation_model import read_tokenizer

PAD = 0
BOOST = {"zh": 2.0, "ja": 1.3}


@dataclass
class Ragged:
    """Rows of different length, one behind the other: `flat` (tokens,), `starts` and `lengths` (N,)."""

    flat: Tensor
    starts: Tensor
    lengths: Tensor
    sizes: np.ndarray  # the lengths once more, beside the device

    @classmethod
    def of(cls, arrays: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device) -> Ragged:
        flat, lengths = (np.concatenate(parts) for parts in zip(*arrays, strict=True))
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return cls(*(torch.from_numpy(part.astype(np.int64)).to(device) for part in (flat, starts, lengths)), lengths)

    def rows(self, numbers: Tensor, width: int) -> Tensor:
        """Return rows (B, width), filled up with padding."""
        columns = torch.arange(width, device=self.flat.device)
        at = self.starts[numbers, None] + columns
        ids = self.flat[at.clamp_max(len(self.flat) - 1)]
        return torch.where(columns < self.lengths[numbers, None], ids, PAD)


@dataclass(frozen=True)
class Soft:
    """What a teacher holds likely where each pair's target goes on: K tokens and how likely each, (tokens, K)."""

    ids: Tensor
    shares: Tensor
    starts: Tensor  # of each pair, (P,)

    @classmethod
    def empty(cls, lengths: np.ndarray, count: int, device: torch.device) -> Soft:
        shape, starts = (int(lengths.sum()), count), np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return cls(
            torch.zeros(shape, dtype=torch.int16, device=device),
            torch.zeros(shape, dtype=torch.float16, device=device),
            torch.from_numpy(starts.astype(np.int64)).to(device),
        )

    def rows(self, batch: Batch) -> Tensor:
        """Return the rows of a batch's tokens, (B · width,); those of padding are of no meaning."""
        columns = torch.arange(batch.width, device=self.starts.device)
        return (self.starts[batch.sources, None] + columns).flatten().clamp_max(len(self.ids) - 1)


@dataclass(frozen=True)
class Batch:
    """Row numbers of sources and of targets (B,), and how many tokens wide each side is."""

    sources: Tensor
    targets: Tensor
    target: Ragged
    length: int
    width: int
    soft: Soft | None = None

    @property
    def tokens(self) -> int:
        return len(self.sources) * self.length

    def shuffled(self) -> Batch:
        """The same targets under sources that are not theirs."""
        return replace(self, sources=self.sources.roll(1))


@dataclass
class Pairs:
    """Sources (P rows), targets, the target of each source, and how often an epoch takes each: (P,)."""

    source: Ragged
    target: Ragged
    target_of: np.ndarray
    rate: np.ndarray
    soft: Soft | None = None

    def epochs(self, *, tokens: int, rng: np.random.Generator) -> Iterator[list[Batch]]:
        """Yield the batches of one epoch after another; the next are chosen while these are learnt."""
        beside = ThreadPoolExecutor(1)
        try:
            coming = beside.submit(self._choose, tokens, rng)
            while True:
                chosen = coming.result()
                coming = beside.submit(self._choose, tokens, rng)
                yield self._place(*chosen)
        finally:
            beside.shutdown(wait=False)

    def batches(self, *, tokens: int, rng: np.random.Generator) -> list[Batch]:
        """Return the batches of an epoch: each of one source length, of targets of about one length.

        Where there are enough pairs of a length, a batch has as many rows as its lengths allow, and no other number: a
        GPU is quick at what has a shape that it saw before. All go to the device at once, as each copy waits for it.
        """
        return self._place(*self._choose(tokens, rng))

    def _choose(self, tokens: int, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
        """Return pairs in order, and of each batch from where to where it goes, its source length and its width."""
        pairs = np.repeat(np.arange(len(self.rate)), np.floor(self.rate + rng.random(len(self.rate))).astype(int))
        sources = self.source.sizes[pairs]
        targets = self.target.sizes[self.target_of[pairs]] + rng.random(len(pairs))
        order = np.lexsort((targets, sources))
        pairs, sources, targets = pairs[order], sources[order], targets[order]
        batches = []
        for length in np.unique(sources).tolist():
            first, high = np.searchsorted(sources, [length, length + 1]).tolist()
            low = first
            while low < high:
                width = stepped(targets[min(high, low + tokens // length) - 1])
                size = tokens // max(length, width)
                low = max(first, min(low, high - size))
                batches.append((low, min(high, low + size), length, width))
                low += size
        return pairs, [batches[i] for i in rng.permutation(len(batches)) if batches[i][1] - batches[i][0] >= 8]

    def _place(self, pairs: np.ndarray, batches: Sequence[tuple[int, int, int, int]]) -> list[Batch]:
        sources, targets = (
            torch.from_numpy(part.astype(np.int64)).to(self.source.flat.device)
            for part in (pairs, self.target_of[pairs])
        )
        return [
            Batch(sources[low:high], targets[low:high], self.target, length, width, self.soft)
            for low, high, length, width in batches
        ]


def stepped(length: float) -> int:
    """The next multiple of four."""
    return -int(-length // 4) * 4


def rates(languages: Sequence[str], sizes: Sequence[int]) -> np.ndarray:
    """How often an epoch takes a pair: small languages oftener, (size / mean) ** -0.3 within [0.6, 2.5]."""
    levelled = np.clip((np.array(sizes) / np.mean(sizes)) ** -0.3, 0.6, 2.5)
    shares = levelled * [BOOST.get(code, 1.0) for code in languages]
    return np.repeat(shares, sizes)


_TOKENIZER: tuple[str, Tokenizer] | None = None


def tokenise(pool: object, path: Path, texts: Sequence[str], most: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return chunks of token numbers, one line behind the other, and the lengths of the lines."""
    chunks = [(str(path), texts[start : start + 8_000], most) for start in range(0, len(texts), 8_000)]
    return pool.map(_tokenise_chunk, chunks, chunksize=1)


def _tokenise_chunk(task: tuple[str, Sequence[str], int]) -> tuple[np.ndarray, np.ndarray]:
    path, texts, most = task
    global _TOKENIZER
    if _TOKENIZER is None or _TOKENIZER[0] != path:
        _TOKENIZER = path, read_tokenizer(Path(path))
        _TOKENIZER[1].enable_truncation(most)
    ids = [encoding.ids for encoding in _TOKENIZER[1].encode_batch_fast(texts)]
    flat, lengths = (i for row in ids for i in row), (len(row) for row in ids)
    return np.fromiter(flat, dtype=np.int32), np.fromiter(lengths, dtype=np.int32)
