"""kdserve as LangChain's embeddings, in this process: pip install kdserve[cpu] langchain-core."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from kdserve import Encoder


class KdserveEmbeddings(Embeddings):
    """A bundle, for whatever takes LangChain embeddings: vector stores, retrievers, caches."""

    def __init__(self, model: str = "kdserve-static") -> None:
        self.encoder = Encoder.load(model)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.encoder.encode_document(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.encoder.encode_query([text])[0].tolist()
