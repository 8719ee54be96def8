"""Distil a sentence-embedding teacher into a small multilingual student, export it, search with it.

The public names are imported when they are first used, so that `import kdserve` costs nothing:

    Encoder         open a bundle and embed texts (onnxruntime, no torch)
    Classifier      open a classifier bundle and name the labels of texts (likewise)
    Retriever       build, open and search an index
    Document        what an index is built of
    BuildOptions    how it is built
    Hit             what a search finds
    Translator      open a bundle that translates or summarises (likewise)
    KdserveError    everything that a user can cause and fix
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdserve.datatypes import Hit as Hit
    from kdserve.errors import KdserveError as KdserveError
    from kdserve.runtime import Classifier as Classifier
    from kdserve.runtime import Encoder as Encoder
    from kdserve.runtime import Translator as Translator
    from kdserve.search import BuildOptions as BuildOptions
    from kdserve.search import Document as Document
    from kdserve.search import Retriever as Retriever

__version__ = "0.2.0"
__all__ = [
    "BuildOptions",
    "Classifier",
    "Document",
    "Encoder",
    "Hit",
    "KdserveError",
    "Retriever",
    "Translator",
    "__version__",
]

_ROOMS = {
    "BuildOptions": "kdserve.search",
    "Classifier": "kdserve.runtime",
    "Document": "kdserve.search",
    "Encoder": "kdserve.runtime",
    "Hit": "kdserve.datatypes",
    "KdserveError": "kdserve.errors",
    "Retriever": "kdserve.search",
    "Translator": "kdserve.runtime",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'kdserve' has no attribute {name!r}")
