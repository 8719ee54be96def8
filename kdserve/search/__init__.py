"""Search: index folders that commit whole, exact and FAISS backends that agree, the retriever."""

from kdserve.search.changes import compact_index, delete_documents
from kdserve.search.documents import Document, Id, NewMetadata, ids_as_typed
from kdserve.search.inspect import IndexInfo, describe, encoder_name, verify_index
from kdserve.search.kinds import Tuning, Wish
from kdserve.search.languages import name_languages
from kdserve.search.lines import STDIN, read_lines
from kdserve.search.mining import MinedPair, mine
from kdserve.search.readers import Format, Source, format_of, resume_key
from kdserve.search.records import Columns
from kdserve.search.retriever import BuildOptions, Retriever
from kdserve.search.snapshot import open_snapshot

__all__ = [
    "STDIN",
    "BuildOptions",
    "Columns",
    "Document",
    "Format",
    "Id",
    "IndexInfo",
    "MinedPair",
    "NewMetadata",
    "Retriever",
    "Source",
    "Tuning",
    "Wish",
    "compact_index",
    "delete_documents",
    "describe",
    "encoder_name",
    "format_of",
    "ids_as_typed",
    "mine",
    "name_languages",
    "open_snapshot",
    "read_lines",
    "resume_key",
    "verify_index",
]
