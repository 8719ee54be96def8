"""Embedders whose vectors a test can compute by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kdserve.datatypes import Embeddings


class KnownVectors:
    """Look every text up in a table; rows are brought to unit length. `asked` keeps the texts of every call."""

    fingerprint = "known"

    def __init__(self, table: Mapping[str, Sequence[float]]) -> None:
        self.table = {text: np.asarray(row, np.float32) / np.linalg.norm(row) for text, row in table.items()}
        self.dim = len(next(iter(self.table.values())))
        self.asked: list[list[str]] = []

    def encode_query(self, texts: Sequence[str]) -> Embeddings:
        self.asked.append(list(texts))
        return np.array([self.table[text] for text in texts], np.float32).reshape(-1, self.dim)

    encode_document = encode_query


class Meanings:
    """Embed "<language>:<number>" as a direction of that number, plus `bias` times a direction of the language."""

    fingerprint = "meanings"
    dim = 64

    def __init__(self, *, bias: float) -> None:
        self.bias = bias
        self._directions = np.random.default_rng(0).standard_normal((100, self.dim))

    def encode_query(self, texts: Sequence[str]) -> Embeddings:
        rows = []
        for text in texts:
            language, number = text.split(":")
            own = np.random.default_rng(sum(map(ord, language))).standard_normal(self.dim)
            row = self._directions[int(number)] + self.bias * own
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, np.float32).reshape(-1, self.dim)

    encode_document = encode_query
