"""Search: index folders that commit whole, exact and FAISS backends that agree, the retriever."""

from kdserve.search.documents import Document
from kdserve.search.inspect import IndexInfo, describe, verify_index
from kdserve.search.readers import Columns, count_documents, format_of, read_documents, resume_key
from kdserve.search.retriever import BuildOptions, Retriever

__all__ = [
    "BuildOptions",
    "Columns",
    "Document",
    "IndexInfo",
    "Retriever",
    "count_documents",
    "describe",
    "format_of",
    "read_documents",
    "resume_key",
    "verify_index",
]
