"""Streams of random numbers by name: each draw of a recipe depends on its seed alone, never on another draw."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Name of a draw. The numbers never change: they are part of what a seed means."""

    VOCABULARY_SENTENCES = 1
    COVERAGE_SENTENCES = 2
    BATCHES = 3
    HELD_OUT_PAIRS = 4
    RIDGE_ROWS = 5
    LABELS_PER_CLASS = 6
    NEGATIVES = 7
    TOKEN_SPLITS = 8
    PARTNERS = 9
    FOLDED_TEXTS = 10
    LABELLED_TEXTS = 11
    HELD_OUT_SOURCES = 12
    TEACHER_OUTPUTS = 13
    CENTRES = 14


def random_stream(stream: Stream, seed: int, *numbers: int) -> np.random.Generator:
    """Return the generator of a stream; `numbers` tell apart its draws, like the batch or the step."""
    return np.random.default_rng([seed, stream, *numbers])
