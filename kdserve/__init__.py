"""Distil a sentence-embedding teacher into a small multilingual student, export it, search with it.

The public names are imported when they are first used, so that `import kdserve` costs nothing:

    Encoder         open a bundle and embed texts (onnxruntime, no torch)
    Classifier      open a classifier bundle and name the labels of texts (likewise)
    Retriever       build, open and search an index
    KdserveError    everything that a user can cause and mend
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdserve.errors import KdserveError as KdserveError
    from kdserve.runtime import Classifier as Classifier
    from kdserve.runtime import Encoder as Encoder
    from kdserve.search import Retriever as Retriever

__version__ = "0.1.0"
__all__ = ["Classifier", "Encoder", "KdserveError", "Retriever", "__version__"]

_ROOMS = {
    "Classifier": "kdserve.runtime",
    "Encoder": "kdserve.runtime",
    "KdserveError": "kdserve.errors",
    "Retriever": "kdserve.search",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'kdserve' has no attribute {name!r}")
