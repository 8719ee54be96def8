"""How a student is judged while it is trained: translation retrieval on held-out sentences, or another measure.

Letters: P pairs, S different source sentences of theirs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.tokens import TokenStore, tokenize_texts
from kdserve.distill.streams import Stream, random_stream
from kdserve.distill.students.embedder import Student
from kdserve.distill.students.inference import embed_texts
from kdserve.errors import TrainingError
from kdserve.evaluate import QuestionSet, find_translations
from kdserve.recipe import ValidationRecipe

MIN_PAIRS = 20
"""A language or domain with fewer held-out pairs is not reported."""
COLLAPSE_COSINE = 0.95
"""Mean cosine of different sentences above which a student has collapsed onto one vector."""
_MAX_COMPARED, _MIN_COMPARED = 256, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Shares of held-out sentences that find their translation, both directions averaged, in one pool of all languages.

    The few hundred sentences that one language holds out would be too easy a pool to tell checkpoints apart.
    """

    by_language: Mapping[str, float]
    by_domain: Mapping[str, float]
    loss: float | None = None
    """Mean loss of a token that is written, where the student writes."""
    questions: Mapping[str, float] = field(default_factory=dict)
    """Shares of questions that find their paragraph, by language, where the recipe names some."""

    @property
    def mean(self) -> float:
        """Mean over the languages."""
        return float(np.mean(list(self.by_language.values()))) if self.by_language else 0.0

    @property
    def score(self) -> float:
        """The mean over the languages, averaged with that of questions where both were measured: it chooses weights."""
        measured = [list(shares.values()) for shares in (self.by_language, self.questions) if shares]
        return float(np.mean([np.mean(shares) for shares in measured])) if measured else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """The weakest language and its accuracy."""
        return min(self.by_language.items(), key=lambda item: item[1], default=("", 0.0))


class Validator(Protocol):
    """One way to judge a student that embeds."""

    def measure(self, student: Student, step: int) -> Accuracy:
        """Measure the student as it is after `step` steps.

        Raises:
            TrainingError: it is of no use any more; says at which step.
        """


class TranslationValidator:
    """Translation retrieval on a corpus's held-out pairs."""

    def __init__(self, corpus: Corpus, tokens: TokenStore, settings: ValidationRecipe, *, seed: int) -> None:
        self.corpus, self.tokens = corpus, tokens
        self.pairs = held_out_pairs(corpus, settings, seed=seed)

    def measure(self, student: Student, step: int) -> Accuracy:
        """Embed both sides and look for each one's nearest neighbour.

        Raises:
            TrainingError: vectors are NaN, or different sentences have one vector.
        """
        pairs, num_pairs = self.pairs, len(self.corpus.source_of)
        if not len(pairs):
            return Accuracy(by_language={}, by_domain={})
        sources, source_of = np.unique(self.corpus.source_of[pairs], return_inverse=True)
        foreign = embed_texts(student, self.tokens, pairs)
        own = embed_texts(student, self.tokens, sources.astype(np.int64) + num_pairs)
        _require_spread(foreign[:_MAX_COMPARED], step)
        found = find_translations(foreign.numpy(), own.numpy(), source_of)
        return Accuracy(
            by_language=_by_group(found, self.corpus.language_of[pairs], self.corpus.languages),
            by_domain=_by_group(found, self.corpus.domain_of[pairs], self.corpus.domains),
        )


class QuestionValidator:
    """Another validator, and beside it whether questions find their paragraphs within their own language."""

    def __init__(
        self,
        validator: Validator,
        sets: Mapping[str, QuestionSet],
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        prompts: tuple[tuple[int, ...], tuple[int, ...]],
    ) -> None:
        self.validator = validator
        self.asked = {language: list(one.questions.values()) for language, one in sets.items()}
        self.tokens = {
            language: [
                tokenize_texts(tokenizer, texts, max_tokens=max_tokens, prompts=prompts)
                for texts in ([question.text for question in self.asked[language]], one.paragraphs)
            ]
            for language, one in sets.items()
        }

    def measure(self, student: Student, step: int) -> Accuracy:
        """Measure both."""
        found = {}
        for language, (questions, paragraphs) in self.tokens.items():
            asked_QD = embed_texts(student, questions, np.arange(len(questions.lengths)))
            pool_ND = embed_texts(student, paragraphs, np.arange(len(paragraphs.lengths)), queries=False)
            nearest = (asked_QD @ pool_ND.T).argmax(dim=1).tolist()
            right = [place == one.paragraph for place, one in zip(nearest, self.asked[language], strict=True)]
            found[language] = round(float(np.mean(right)), 5)
        return replace(self.validator.measure(student, step), questions=found)


def held_out_pairs(corpus: Corpus, settings: ValidationRecipe, *, seed: int) -> npt.NDArray[np.int64]:
    """Draw the numbers of held-out pairs, at most `max_pairs` a language and domain."""
    return draw_pairs(corpus, np.flatnonzero(corpus.held_out[corpus.source_of]), settings, seed=seed)


def draw_pairs(
    corpus: Corpus, held: npt.NDArray[np.int64], settings: ValidationRecipe, *, seed: int
) -> npt.NDArray[np.int64]:
    """Draw among the numbers of some pairs, at most `max_pairs` a language and domain."""
    held = random_stream(Stream.HELD_OUT_PAIRS, seed).permutation(held)
    groups = corpus.language_of[held].astype(np.int64) * len(corpus.domains) + corpus.domain_of[held]
    order = np.argsort(groups, kind="stable")
    rank = np.empty(len(held), dtype=np.int64)
    rank[order] = np.arange(len(held)) - np.searchsorted(groups[order], groups[order])
    return np.sort(held[rank < settings.max_pairs])


def _require_spread(vectors_ND: Tensor, step: int) -> None:
    """Refuse NaN, and one vector for everything."""
    if len(vectors_ND) < _MIN_COMPARED:
        return
    cosines = (vectors_ND @ vectors_ND.T)[~torch.eye(len(vectors_ND), dtype=torch.bool)]
    if not torch.isfinite(cosines).all():
        raise TrainingError(f"the student's vectors are NaN at step {step}; lower train.body_rate or table_rate")
    if step and float(cosines.mean()) > COLLAPSE_COSINE:
        raise TrainingError(
            f"the student collapsed at step {step}: different sentences have mean cosine "
            f"{float(cosines.mean()):.3f}; add objective.contrastive or relational, or lower the rates"
        )


def _by_group(
    found_P: npt.NDArray[np.float32], groups_P: npt.NDArray[np.int16], names: tuple[str, ...]
) -> dict[str, float]:
    numbers, counts = np.unique(groups_P, return_counts=True)
    return {
        names[number]: round(float(found_P[groups_P == number].mean()), 5)
        for number, count in zip(numbers, counts, strict=True)
        if count >= MIN_PAIRS
    }
