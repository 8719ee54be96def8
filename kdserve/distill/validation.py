"""Translation retrieval on held-out sentences, by language and by domain, while a student is trained.

Letters: P pairs, S different source sentences of theirs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdserve.distill.corpus import Corpus
from kdserve.distill.student import Student
from kdserve.distill.tokens import TokenStore
from kdserve.evaluate import find_translations

MIN_PAIRS = 20
"""A language or domain with fewer held-out pairs is not reported."""
_BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Shares of held-out sentences that find their translation, both directions averaged, in one pool of all languages.

    The few hundred sentences that one language holds out would be too easy a pool to tell checkpoints apart.
    """

    by_language: Mapping[str, float]
    by_domain: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over the languages."""
        return float(np.mean(list(self.by_language.values()))) if self.by_language else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """The weakest language and its accuracy."""
        return min(self.by_language.items(), key=lambda item: item[1], default=("", 0.0))


class Validation:
    """Held-out pairs of a corpus, at most `max_pairs` a language and domain."""

    def __init__(self, corpus: Corpus, tokens: TokenStore, *, max_pairs: int, seed: int) -> None:
        self.corpus, self.tokens = corpus, tokens
        held = np.flatnonzero(corpus.held_out[corpus.source_of])
        held = np.random.default_rng([seed, 4]).permutation(held)
        groups = corpus.language_of[held].astype(np.int64) * len(corpus.domains) + corpus.domain_of[held]
        order = np.argsort(groups, kind="stable")
        rank = np.empty(len(held), dtype=np.int64)
        rank[order] = np.arange(len(held)) - np.searchsorted(groups[order], groups[order])
        self.pairs = np.sort(held[rank < max_pairs])

    @torch.no_grad()
    def measure(self, student: Student, *, device: torch.device) -> Accuracy:
        """Embed both sides with the student and look for each one's nearest neighbour."""
        pairs, num_pairs = self.pairs, len(self.corpus.source_of)
        if not len(pairs):
            return Accuracy(by_language={}, by_domain={})
        was_training = student.training
        student.eval()
        sources, source_of = np.unique(self.corpus.source_of[pairs], return_inverse=True)
        foreign = self.embed(student, pairs, device)
        own = self.embed(student, sources.astype(np.int64) + num_pairs, device)
        student.train(was_training)
        found = find_translations(foreign.cpu().numpy(), own.cpu().numpy(), source_of)
        return Accuracy(
            by_language=_by_group(found, self.corpus.language_of[pairs], self.corpus.languages),
            by_domain=_by_group(found, self.corpus.domain_of[pairs], self.corpus.domains),
        )

    @torch.no_grad()
    def embed(self, student: Student, texts: npt.NDArray[np.int64], device: torch.device) -> Tensor:
        """Embed texts by their numbers: (N, D), on the device."""
        order = np.argsort(self.tokens.lengths[texts], kind="stable")
        parts = []
        for begin in range(0, len(order), _BATCH):
            ids, mask = self.tokens.padded(texts[order[begin : begin + _BATCH]], wrap=student.wraps)
            parts.append(student(ids.to(device), mask.to(device)).vectors_BD.float())
        inverse = torch.from_numpy(np.argsort(order)).to(device)
        return torch.cat(parts)[inverse]


def _by_group(
    found_P: npt.NDArray[np.float32], groups_P: npt.NDArray[np.int16], names: tuple[str, ...]
) -> dict[str, float]:
    numbers, counts = np.unique(groups_P, return_counts=True)
    return {
        names[number]: round(float(found_P[groups_P == number].mean()), 5)
        for number, count in zip(numbers, counts, strict=True)
        if count >= MIN_PAIRS
    }
