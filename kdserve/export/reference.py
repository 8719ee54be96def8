"""The student in torch: what a bundle is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from kdserve.datatypes import Embeddings
from kdserve.export.read.foreign import opening
from kdserve.export.read.student import StudentFolder
from kdserve.runtime.encoder import Role
from kdserve.runtime.library import open_normalizer
from kdserve.runtime.normalizer import NORMALIZER


class Reference:
    """A student folder in sentence-transformers, on the CPU in float32, without any of the exporter's code."""

    def __init__(self, student: StudentFolder) -> None:
        self._student, max_tokens = student, student.max_tokens
        with opening(student.folder, "sentence-transformers"):
            self._model = SentenceTransformer(str(student.folder), device="cpu", local_files_only=True).float()
        body = self._model[0]
        tokenizer = getattr(body.tokenizer, "backend_tokenizer", body.tokenizer)
        if student.tokenizer.spec["normalizer"] == NORMALIZER:  # its own may be one that kdserve wrote before
            tokenizer.normalizer = open_normalizer(NORMALIZER)
        if isinstance(body, StaticEmbedding):  # it has no limit of its own
            body.tokenizer.enable_truncation(max_tokens, direction=student.tokenizer.truncation_side)
            return
        body.tokenizer.padding_side = "right"  # on the left, the positions of some bodies depend on the batch
        self._model.max_seq_length = min(self._model.max_seq_length, max_tokens)  # beyond its table it fails

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
        return self.encode(texts, role="query")

    def encode_document(self, texts: Sequence[str]) -> Embeddings:
        """Embed documents, as `encode_query`."""
        return self.encode(texts, role="document")

    def encode(self, texts: Sequence[str], *, role: Role) -> Embeddings:
        """Embed as one or the other, with the prompts that sentence-transformers finds by itself."""
        method = self._model.encode_query if role == "query" else self._model.encode_document
        with opening(self._student.folder, "sentence-transformers"):
            vectors = method(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)
