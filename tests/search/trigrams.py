"""A small real embedder: character trigrams, hashed, projected at random, and made unit vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from zlib import crc32

import numpy as np

from kdserve.datatypes import Embeddings, require_texts

BUCKETS = 4096


class TrigramEmbedder:
    """Texts that share trigrams are near each other. Deterministic, and a text's vector does not see its batch."""

    def __init__(self, dim: int = 64, seed: int = 0) -> None:
        self.dim = dim
        self.fingerprint = hashlib.sha256(f"trigrams {dim} {seed}".encode()).hexdigest()
        self._table = np.random.default_rng(seed).standard_normal((BUCKETS, dim)).astype(np.float32)

    def encode_query(self, texts: Sequence[str]) -> Embeddings:
        texts = require_texts(texts)
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            padded = f" {text.lower()} "
            for start in range(len(padded) - 2):
                vector += self._table[crc32(padded[start : start + 3].encode()) % BUCKETS]
            vector /= np.linalg.norm(vector) or 1.0
        return vectors

    encode_document = encode_query
