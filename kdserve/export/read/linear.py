"""Matrix products as torch stores them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdserve.export.read.weights import Array, LinearWeights


def read_linear(tensors: Mapping[str, Array], name: str) -> LinearWeights:
    """Read a product as torch stores it, with its bias where there is one."""
    return LinearWeights(weight=np.ascontiguousarray(tensors[f"{name}.weight"].T), bias=tensors.get(f"{name}.bias"))
