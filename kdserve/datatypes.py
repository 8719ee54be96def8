"""Data that flows between the rooms: texts become token batches, token batches vectors, vectors hits.

Axes: N texts, B batch, T tokens, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from kdserve.errors import EncodeError

Scalar = str | int | float | bool | None
Cell = Scalar | Sequence[Scalar]
"""Value of a metadata field."""
Embeddings = npt.NDArray[np.float32]
"""(N, D) float32, every row of unit length."""
Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` by everything that takes long; total 0 means unknown."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing: the default of every long call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """Token ids and attention mask, both (B, T) int64; the mask is 1 on real tokens, 0 on padding."""

    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """A sentence: the characters [start, end) of a hit's text. `score` is its inner product with the query."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One answer of a search. `score` is the inner product of unit vectors: higher is better.

    `passage` is None where `text` is the whole document, else the characters [start, end) of it that `text` is.
    `sentence` is that of the text which is nearest to the query, where the index keeps sentences.
    """

    id: str | int
    score: float
    text: str
    language: str | None = None
    metadata: Mapping[str, Cell] = field(default_factory=dict)
    passage: tuple[int, int] | None = None
    sentence: Sentence | None = None


@runtime_checkable
class Embedder(Protocol):
    """Teacher, student or bundle, as benchmarks, evaluations and indexes use it."""

    @property
    def dim(self) -> int:
        """Width D of the vectors."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the files that the vectors depend on."""

    def encode_query(self, texts: Sequence[str]) -> Embeddings:
        """Embed queries: (N, D) float32 of unit rows, (0, D) for the empty list."""

    def encode_document(self, texts: Sequence[str]) -> Embeddings:
        """Embed documents: (N, D) float32 of unit rows, (0, D) for the empty list."""


def require_embedder(encoder: object) -> None:
    """Refuse what cannot embed, as the name of what could.

    Raises:
        TypeError: it cannot.
    """
    if not isinstance(encoder, Embedder):
        raise TypeError(f"got {type(encoder).__name__} for an encoder; open one: Encoder.load(…)")


def require_texts(texts: Iterable[str]) -> list[str]:
    """Return `texts` as a list when every item is a str. Generators and columns of arrays and frames are texts too.

    Raises:
        TypeError: a bare str, a mapping or a set, whose items have no order of their own, or an item that is no str.
        EncodeError: a text with a lone surrogate, which no tokenizer can read.
    """
    if isinstance(texts, str):
        raise TypeError("expected a sequence of texts, got one str; put it into a list")
    if isinstance(texts, Mapping | Set) or not isinstance(texts, Iterable):
        raise TypeError(f"expected a sequence of texts, got {type(texts).__name__}; give a list")
    listed = list(texts)
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"text {position} is {type(text).__name__}, not str")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            message = f"text {position} is no valid Unicode ({error.reason}); decode its bytes again"
            raise EncodeError(message) from error
    return listed
