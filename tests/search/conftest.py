from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from trigrams import TrigramEmbedder


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
