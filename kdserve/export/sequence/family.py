"""Which checkpoints have graphs, and how each is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdserve.export.read.t5 import T5_FAMILIES, t5_without_graph
from kdserve.export.read.weights import Array
from kdserve.export.sequence.bart import BART_FAMILIES, bart_without_graph, read_bart
from kdserve.export.sequence.bert_pair import bert_pair_without_graph, read_bert_pair
from kdserve.export.sequence.t5 import read_t5_pair
from kdserve.export.sequence.weights import SequenceWeights

PAIR_FAMILY = "encoder-decoder"
SEQUENCE_FAMILIES = frozenset((*BART_FAMILIES, *T5_FAMILIES, PAIR_FAMILY))


def sequence_without_graph(config: Mapping[str, Any]) -> str:
    """Say what of an encoder-decoder is not known here, or nothing."""
    family = str(config.get("model_type"))
    if family not in SEQUENCE_FAMILIES:
        return f"the family {family}"
    if config.get("quantization_config"):
        return "quantised weights (quantization_config)"
    if family == PAIR_FAMILY:
        return bert_pair_without_graph(config)
    return t5_without_graph(config) if family in T5_FAMILIES else bart_without_graph(config)


def read_sequence(tensors: Mapping[str, Array], config: Mapping[str, Any], *, start_id: int) -> SequenceWeights:
    """Arrange the tensors of a checkpoint without objection by `sequence_without_graph`. Raises KeyError for a lack.

    `start_id` is the token that outputs start with.
    """
    family = config["model_type"]
    if family == PAIR_FAMILY:
        return read_bert_pair(tensors, config, start_id=start_id)
    return read_t5_pair(tensors, config) if family in T5_FAMILIES else read_bart(tensors, config, start_id=start_id)
