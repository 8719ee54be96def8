"""Which texts make up which batch: a pure function of seed and step, so that a resumed run sees the same batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.partners import Partners
from kdserve.distill.streams import Stream, random_stream
from kdserve.recipe import TrainRecipe

_CHUNK = 64
"""Batches are drawn this many at a time and cut from the sorted lengths, so that a batch wastes little padding."""
_EDGES = 6
"""Tokens of a text beside its own, about: its edges and a prompt."""


def language_shares(language_of: npt.NDArray[np.int16], *, temperature: float) -> dict[int, float]:
    """Return each language's share, (number of pairs) ** temperature: 1 keeps the data's shares, 0 makes them equal."""
    languages, counts = np.unique(language_of, return_counts=True)
    powers = counts.astype(np.float64) ** temperature
    return dict(zip(languages.tolist(), (powers / powers.sum()).tolist(), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSampler:
    """Draws texts with replacement; `lengths` are in tokens, `cumulative` is the running sum of the texts' shares.

    Batches have `batch_size` texts, or with `by_tokens` so many on average and about as many tokens each. With
    `partners`, a batch is so many texts and then a partner for each; the longer of the two counts.
    """

    texts: npt.NDArray[np.int64]
    cumulative: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int32]
    batch_size: int
    seed: int
    by_tokens: bool = False
    partners: Partners | None = None

    def batches(self, *, start: int, stride: int = 1, offset: int = 0) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the text numbers of batch `start`, `start + 1`, …; worker `offset` of `stride` gets its own ones."""
        number = start * stride + offset
        chunk = -1
        while True:
            if number // _CHUNK != chunk:
                chunk, drawn = number // _CHUNK, self._draw(number // _CHUNK)
            yield drawn[number % _CHUNK]
            number += stride

    def _draw(self, chunk: int) -> list[npt.NDArray[np.int64]]:
        rng = random_stream(Stream.BATCHES, self.seed, chunk)
        points = rng.random(_CHUNK * self.batch_size) * self.cumulative[-1]
        texts = self.texts[np.searchsorted(self.cumulative, points, side="right").clip(max=len(self.texts) - 1)]
        rows = np.stack([texts, self.partners.draw(texts, rng)]) if self.partners else texts[None]
        longest = self.lengths[rows].max(axis=0)
        order = np.argsort(longest, kind="stable")
        by_length = rows[:, order]
        ends = np.arange(1, _CHUNK) * self.batch_size
        if self.by_tokens:
            sums = np.cumsum(longest[order] + _EDGES)
            counted = np.arange(1, _CHUNK)
            ends = np.searchsorted(sums, counted * (sums[-1] / _CHUNK))
            ends = np.maximum.accumulate(ends - counted).clip(0, len(texts) - _CHUNK) + counted  # none is empty
        batches = np.split(by_length, ends, axis=1)
        return [batches[number].reshape(-1) for number in rng.permutation(_CHUNK)]


def make_sampler(
    corpus: Corpus,
    lengths: npt.NDArray[np.int32],
    train: TrainRecipe,
    *,
    seed: int,
    partners: Partners | None = None,
) -> TextSampler:
    """Draw texts in proportion to `text_shares`; `lengths` (P + S,) are the tokens of translations, then of sources.

    With `partners`, half of a batch's texts are drawn so and the other half are their partners.
    """
    texts, shares = text_shares(corpus, train)
    return TextSampler(
        texts=texts,
        cumulative=np.cumsum(shares),
        lengths=lengths,
        batch_size=train.batch_size // 2 if partners else train.batch_size,
        seed=seed,
        by_tokens=train.batch_by == "tokens",
        partners=partners,
    )


def text_shares(corpus: Corpus, train: TrainRecipe) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the numbers of the texts that may be trained on and their shares, which sum to 1.

    `train.source_share` goes to the sources, the rest to the languages by `train.temperature`; inside a language the
    pairs' weights decide. Held-out sentences are not among them.
    """
    pairs = corpus.training_pairs()
    pair_share = pair_shares(corpus, pairs, temperature=train.temperature, total=1 - train.source_share)
    sources = np.flatnonzero(~corpus.held_out)
    source_weight = corpus.source_weight[sources].astype(np.float64)
    source_share = train.source_share * source_weight / source_weight.sum()
    texts = np.concatenate([pairs, sources + len(corpus.source_of)])
    return texts, np.concatenate([pair_share, source_share])


def pair_shares(
    corpus: Corpus, pairs: npt.NDArray[np.int64], *, temperature: float, total: float = 1.0
) -> npt.NDArray[np.float64]:
    """Return the shares of these pairs, `total` in all: languages by `temperature`, inside a language by weight."""
    languages, weights = corpus.language_of[pairs], corpus.weight_of[pairs].astype(np.float64)
    of_language = np.bincount(languages, weights=weights, minlength=len(corpus.languages))
    shares = np.zeros(len(corpus.languages))
    for language, share in language_shares(languages, temperature=temperature).items():
        shares[language] = share
    return total * weights * (shares / np.maximum(of_language, 1e-12))[languages]
