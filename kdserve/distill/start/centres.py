"""Where a teacher puts each language as a whole, so that its students need not.

A multilingual teacher's vectors lie together by language: of all right answers in one pool it prefers those in the
question's own. Taking each language's mean off undoes most of that (Yang et al. 2021, arXiv:2109.04727, remove main
directions). The mean is the source language's, plus what translations differ from their sources by, so that the
domains that a language happens to have do not count.

Letters: L languages, the source language last; R roles, document and query; D width; N texts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import digest_of
from kdserve.distill.hardware import best_device
from kdserve.distill.objectives.live import LiveTeacher
from kdserve.distill.start.ingredients import Ingredients, keep_solved
from kdserve.distill.streams import Stream, random_stream
from kdserve.distill.students.inference import embed_texts
from kdserve.recipe import Recipe

_PAIRS, _SOURCES = 256, 4_096


def keep_centres(
    recipe: Recipe, ingredients: Ingredients, live: LiveTeacher, work: Path, *, progress: Progress = no_progress
) -> None:
    """Measure the centres on texts of the corpus, or as it was done before in `work`, and give them to the teacher."""
    key = digest_of(_PAIRS, _SOURCES, recipe.seed, ingredients.teacher.fingerprint, ingredients.data.tokens.key)
    path = work / f"centres-{key[:16]}.safetensors"
    found = keep_solved(
        path, lambda: {"centres": measure_centres(ingredients, live, seed=recipe.seed, progress=progress)}
    )
    live.centres_LRD = found["centres"].to(live.centres_LRD.device)


def measure_centres(
    ingredients: Ingredients, live: LiveTeacher, *, seed: int, progress: Progress = no_progress
) -> Tensor:
    """Return the centre of each language in each role: (L, R, D)."""
    corpus, tokens, rng = ingredients.corpus, ingredients.data.tokens, random_stream(Stream.CENTRES, seed)
    live.to(best_device())
    languages, num_pairs = len(corpus.languages), len(corpus.source_of)
    usable = np.flatnonzero(~corpus.held_out)
    drawn = rng.permutation(usable)[:_SOURCES] + num_pairs
    centres = torch.zeros(languages + 1, 2, ingredients.teacher.dim)
    training = corpus.training_pairs()
    of_language = corpus.language_of[training]

    def mean_of(texts: npt.NDArray[np.int64], role: int) -> Tensor:
        return embed_texts(live.encoder, tokens, texts, queries=bool(role)).mean(dim=0)

    for role in range(2):
        centres[:, role] = mean_of(drawn, role)
        for language in range(languages):
            pairs = rng.permutation(training[of_language == language])[:_PAIRS]
            if len(pairs):
                sources = corpus.source_of[pairs].astype(np.int64) + num_pairs
                centres[language, role] += mean_of(pairs, role) - mean_of(sources, role)
            progress("measuring languages' centres", role * languages + language + 1, 2 * languages)
    return centres
