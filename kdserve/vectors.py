"""Vectors that are checked once, and each text embedded only once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kdserve.datatypes import Embedder, Embeddings, Progress, no_progress
from kdserve.errors import EncodeError

CHUNK = 1024


class Remembering:
    """An `Embedder` that asks the one inside it only for texts that it has not seen.

    Evaluations share sentences: one English side stands against a hundred languages; a question and the sentences of
    its hits order them, and are shown. Costs 4·D bytes a text.
    """

    def __init__(self, embedder: Embedder, *, progress: Progress = no_progress) -> None:
        self._embedder = embedder
        self._progress = progress
        self._queries: dict[str, Embeddings] = {}
        self._documents: dict[str, Embeddings] = {}

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._embedder.dim

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the embedder inside."""
        return self._embedder.fingerprint

    def encode_query(self, texts: Sequence[str]) -> Embeddings:
        """Embed queries; (N, D)."""
        return self._recall(texts, self._queries, self._embedder.encode_query)

    def encode_document(self, texts: Sequence[str]) -> Embeddings:
        """Embed documents; (N, D)."""
        return self._recall(texts, self._documents, self._embedder.encode_document)

    def forget(self) -> None:
        """Let go of all vectors."""
        self._queries.clear()
        self._documents.clear()

    def _recall(
        self, texts: Sequence[str], known: dict[str, Embeddings], encode: Callable[[Sequence[str]], Embeddings]
    ) -> Embeddings:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            known.update(zip(chunk, checked(encode(chunk), len(chunk), self.dim), strict=True))
            self._progress("embed", min(start + CHUNK, len(new)), len(new))
        return np.stack([known[text] for text in texts]) if texts else np.zeros((0, self.dim), np.float32)


def checked(vectors: Embeddings, num_texts: int, dim: int) -> Embeddings:
    """Return `vectors` if they are (num_texts, dim) and finite: a metric over NaN would look like a result.

    Raises:
        EncodeError: another shape, or NaN or infinity inside.
    """
    if vectors.shape != (num_texts, dim):
        raise EncodeError(f"the embedder gave shape {vectors.shape} for {num_texts} texts of width {dim}; fix it first")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise EncodeError(f"the embedder gave NaN or infinity for text {row} of {num_texts}; fix it first")
    return vectors
