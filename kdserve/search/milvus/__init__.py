"""The same retriever over Milvus."""

from kdserve.search.milvus.retriever import MilvusRetriever

__all__ = ["MilvusRetriever"]
