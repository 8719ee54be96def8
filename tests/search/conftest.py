"""A small real embedder: character trigrams, hashed, projected at random, and made unit vectors."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import pytest

from kdserve.datatypes import Embeddings, require_texts

BUCKETS = 4096


class TrigramEmbedder:
    """Texts that share trigrams are near each other. Deterministic, and a text's vector does not see its batch."""

    def __init__(self, dim: int = 64, seed: int = 0) -> None:
        self.dim = dim
        self.fingerprint = hashlib.sha256(f"trigrams {dim} {seed}".encode()).hexdigest()
        self._table = np.random.default_rng(seed).standard_normal((BUCKETS, dim)).astype(np.float32)

    def encode_query(self, texts: Sequence[str]) -> Embeddings:
        require_texts(texts)
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            padded = f" {text.lower()} "
            for start in range(len(padded) - 2):
                vector += self._table[crc32(padded[start : start + 3].encode()) % BUCKETS]
            vector /= np.linalg.norm(vector)
        return vectors

    encode_document = encode_query


@pytest.fixture(scope="session")
def embedder() -> TrigramEmbedder:
    return TrigramEmbedder()


@pytest.fixture
def file_size_limit():
    """Let every file that grows beyond a size fail, as on a full disk: the last write before is a short one."""

    @contextmanager
    def limit(size_bytes: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
