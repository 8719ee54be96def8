"""The student in torch: what a bundle is measured against.

N texts, D width
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from kdserve.datatypes import Embeddings


class Reference:
    """A student folder in sentence-transformers, on the CPU in float32, without any of the exporter's code."""

    def __init__(self, folder: Path, *, max_tokens: int) -> None:
        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        self._model.default_prompt_name = None  # the caller writes prompts into the texts
        body = self._model[0]
        if isinstance(body, StaticEmbedding):  # it has no limit of its own
            body.tokenizer.enable_truncation(max_tokens)
        else:
            self._model.max_seq_length = max_tokens

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts: (N, D) float32 unit rows."""
        vectors = self._model.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)
