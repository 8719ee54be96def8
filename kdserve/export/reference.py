"""The student in torch: what a bundle is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from kdserve.datatypes import Embeddings
from kdserve.export.student import Student
from kdserve.runtime.library import open_normalizer
from kdserve.runtime.normalizer import NORMALIZER


class Reference:
    """A student folder in sentence-transformers, on the CPU in float32, without any of the exporter's code."""

    def __init__(self, student: Student) -> None:
        self._student, max_tokens = student, student.max_tokens
        self._model = SentenceTransformer(str(student.folder), device="cpu", local_files_only=True)
        self._model.default_prompt_name = None  # the caller writes prompts into the texts
        body = self._model[0]
        if isinstance(body, StaticEmbedding):  # it has no limit of its own
            body.tokenizer.enable_truncation(max_tokens)
        else:
            self._model.max_seq_length = max_tokens
        tokenizer = getattr(body.tokenizer, "backend_tokenizer", body.tokenizer)
        if student.tokenizer["normalizer"] == NORMALIZER:  # its own may be one that kdserve wrote before
            tokenizer.normalizer = open_normalizer(NORMALIZER)

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return int(self.encode_document([""]).shape[1])

    @property
    def fingerprint(self) -> str:
        """The student's."""
        return self._student.fingerprint

    def encode_query(self, texts: Sequence[str]) -> Embeddings:
        """Embed queries: (N, D) float32 unit rows."""
        return self._embed(texts, self._student.prompts.query)

    def encode_document(self, texts: Sequence[str]) -> Embeddings:
        """Embed documents, as `encode_query`."""
        return self._embed(texts, self._student.prompts.document)

    def _embed(self, texts: Sequence[str], prompt: str) -> Embeddings:
        texts = [prompt + text for text in texts]
        vectors = self._model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)
