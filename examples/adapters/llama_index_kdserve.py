"""kdserve as LlamaIndex's embedding model, in this process: pip install kdserve[cpu] llama-index-core."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr

from kdserve import Encoder


class KdserveEmbedding(BaseEmbedding):
    """A bundle, for `Settings.embed_model` or `VectorStoreIndex(..., embed_model=...)`."""

    _encoder: Encoder = PrivateAttr()

    def __init__(self, model_name: str = "kdserve-static", embed_batch_size: int = 256, **options: Any) -> None:
        super().__init__(model_name=model_name, embed_batch_size=embed_batch_size, **options)
        self._encoder = Encoder.load(model_name)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encoder.encode_query([query])[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encoder.encode_document(texts).tolist()
