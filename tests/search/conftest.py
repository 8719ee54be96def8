from __future__ import annotations

import pytest
from trigrams import TrigramEmbedder


@pytest.fixture(scope="session")
def embedder() -> TrigramEmbedder:
    return TrigramEmbedder()
