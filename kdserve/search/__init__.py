"""Search: index folders that commit whole, exact and FAISS backends that agree, the retriever.

The names are imported when they are first used, so that the command line can list the kinds of index at no cost.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdserve.search.backends.kinds import Requirements, Tuning
    from kdserve.search.documents.document import Document, Id, NewMetadata, ids_as_typed
    from kdserve.search.documents.languages import name_languages
    from kdserve.search.documents.readers import Format, Source, format_of, resume_key
    from kdserve.search.documents.records import Columns
    from kdserve.search.index.changes import compact_index, delete_documents
    from kdserve.search.index.info import IndexInfo, describe, encoder_name, verify_index
    from kdserve.search.index.snapshot import open_snapshot
    from kdserve.search.mining import MinedPair, mine
    from kdserve.search.query.answers import Answer, answer_question, best_sentences
    from kdserve.search.query.ranking import SearchOptions
    from kdserve.search.query.snippets import make_snippet
    from kdserve.search.retriever import BuildOptions, Retriever
    from kdserve.search.sync import KnownFiles, Synced, sync_folder

__all__ = [
    "Answer",
    "BuildOptions",
    "Columns",
    "Document",
    "Format",
    "Id",
    "IndexInfo",
    "KnownFiles",
    "MinedPair",
    "NewMetadata",
    "Requirements",
    "Retriever",
    "SearchOptions",
    "Source",
    "Synced",
    "Tuning",
    "answer_question",
    "best_sentences",
    "compact_index",
    "delete_documents",
    "describe",
    "encoder_name",
    "format_of",
    "ids_as_typed",
    "make_snippet",
    "mine",
    "name_languages",
    "open_snapshot",
    "resume_key",
    "sync_folder",
    "verify_index",
]

_MODULES = {
    "index.changes": "compact_index delete_documents",
    "documents.document": "Document Id NewMetadata ids_as_typed",
    "index.info": "IndexInfo describe encoder_name verify_index",
    "backends.kinds": "Tuning Requirements",
    "documents.languages": "name_languages",
    "mining": "MinedPair mine",
    "documents.readers": "Format Source format_of resume_key",
    "documents.records": "Columns",
    "query.answers": "Answer answer_question best_sentences",
    "query.ranking": "SearchOptions",
    "query.snippets": "make_snippet",
    "retriever": "BuildOptions Retriever",
    "sync": "KnownFiles Synced sync_folder",
    "index.snapshot": "open_snapshot",
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names.split():
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
