"""The same retriever over Milvus."""

from kdserve.search.milvus.retriever import MilvusRetriever, encoder_of

__all__ = ["MilvusRetriever", "encoder_of"]
