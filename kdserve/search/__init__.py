"""Search: index folders that commit whole, exact and FAISS backends that agree, the retriever."""

from kdserve.search.changes import compact_index, delete_documents
from kdserve.search.documents import Document, Id
from kdserve.search.inspect import IndexInfo, describe, encoder_name, verify_index
from kdserve.search.kinds import Tuning, Wish
from kdserve.search.languages import name_languages
from kdserve.search.mining import MinedPair, mine
from kdserve.search.readers import Columns, Format, Source, format_of, resume_key
from kdserve.search.retriever import BuildOptions, Retriever
from kdserve.search.snapshot import open_snapshot

__all__ = [
    "BuildOptions",
    "Columns",
    "Document",
    "Format",
    "Id",
    "IndexInfo",
    "MinedPair",
    "Retriever",
    "Source",
    "Tuning",
    "Wish",
    "compact_index",
    "delete_documents",
    "describe",
    "encoder_name",
    "format_of",
    "mine",
    "name_languages",
    "open_snapshot",
    "resume_key",
    "verify_index",
]
