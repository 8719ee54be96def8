"""The static student's table as a folder stores it.

V vocabulary, H width
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdserve.export.read.tensors import read_stored, read_tensors
from kdserve.export.read.weights import Array


def read_table(folder: Path) -> Array:
    """Read a token table (V, H) of sentence-transformers, or of model2vec, whose rows may be shared and weighted.

    Raises:
        FolderError: a file is missing or damaged, or a weight is no number.
    """
    tensors = read_tensors(folder)
    if "embeddings" not in tensors:
        return tensors["embedding.weight"]
    table, mapping = tensors["embeddings"], read_stored(folder).get("mapping")
    rows = table if mapping is None else table[mapping.astype(np.int64)]
    weights = tensors.get("weights")
    return rows if weights is None else rows * weights[:, None]
