"""Which families of bodies are known, and who reads each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdserve.export.read.bert import FAMILIES, bert_without_graph, read_bert
from kdserve.export.read.modernbert import modernbert_without_graph, read_modernbert
from kdserve.export.read.t5 import T5_FAMILIES, read_t5, t5_without_graph
from kdserve.export.read.weights import Array, TransformerWeights


def body_without_graph(config: Mapping[str, Any]) -> str:
    """Say what of a body is not known here, or nothing: a known family, with options that all are known."""
    family = config.get("model_type")
    if config.get("quantization_config"):
        return "a body with quantised weights (quantization_config)"
    if family in T5_FAMILIES:
        return t5_without_graph(config)
    if family == "modernbert":
        return modernbert_without_graph(config)
    if family in FAMILIES:
        return bert_without_graph(config)
    return f"a body of the family {family}"


def read_body(tensors: Mapping[str, Array], config: Mapping[str, Any]) -> TransformerWeights:
    """Arrange the tensors of a checkpoint without objection by `body_without_graph`.

    Raises:
        KeyError: a tensor or a setting is missing.
    """
    if config["model_type"] in T5_FAMILIES:
        return read_t5(tensors, config)
    if config["model_type"] == "modernbert":
        return read_modernbert(tensors, config)
    return read_bert(tensors, config)
