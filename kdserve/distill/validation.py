"""Translation retrieval on held-out sentences, by language and by domain, while a student is trained."""

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

MIN_PAIRS = 20
"""A language or domain with fewer held-out pairs is not reported."""
_BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Shares of held-out sentences that find their translation, both directions averaged."""

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
        was_training = student.training
        student.eval()
        pairs, num_pairs = self.pairs, len(self.corpus.source_of)
        sources, source_of = np.unique(self.corpus.source_of[pairs], return_inverse=True)
        foreign = self.embed(student, pairs, device)
        own = self.embed(student, sources.astype(np.int64) + num_pairs, device)[torch.from_numpy(source_of).to(device)]
        target = torch.from_numpy(source_of).to(device)
        student.train(was_training)
        return Accuracy(
            by_language=_by_group(foreign, own, target, self.corpus.language_of[pairs], self.corpus.languages),
            by_domain=_by_group(foreign, own, target, self.corpus.domain_of[pairs], self.corpus.domains),
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
        return torch.cat(parts)[inverse] if parts else torch.zeros(0, 1, device=device)


def _by_group(
    foreign: Tensor, own: Tensor, target: Tensor, groups: npt.NDArray[np.int16], names: tuple[str, ...]
) -> dict[str, float]:
    accuracy = {}
    for number in np.unique(groups):
        members = torch.from_numpy(np.flatnonzero(groups == number)).to(foreign.device)
        if len(members) >= MIN_PAIRS:
            cosines, wanted = foreign[members] @ own[members].T, target[members]
            forward = wanted[cosines.argmax(dim=1)] == wanted
            backward = wanted[cosines.argmax(dim=0)] == wanted
            accuracy[names[number]] = round(float((forward.float().mean() + backward.float().mean()) / 2), 5)
    return accuracy
