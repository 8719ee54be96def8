"""kdserve as Haystack's embedders, in this process: pip install kdserve[cpu] haystack-ai."""

from __future__ import annotations

from dataclasses import replace

from haystack import Document, component

from kdserve import Encoder


@component
class KdserveTextEmbedder:
    """Embeds a query, before a retriever."""

    def __init__(self, model: str = "kdserve-static") -> None:
        self.encoder = Encoder.load(model)

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        return {"embedding": self.encoder.encode_query([text])[0].tolist()}


@component
class KdserveDocumentEmbedder:
    """Embeds documents, before a writer."""

    def __init__(self, model: str = "kdserve-static") -> None:
        self.encoder = Encoder.load(model)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        vectors = self.encoder.encode_document(document.content or "" for document in documents)
        pairs = zip(documents, vectors.tolist(), strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}
