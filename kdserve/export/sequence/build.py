"""One student, one precision, both graphs and the tokenizers beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdserve.export.graphs.arithmetic import Float32, PerTokenInt8
from kdserve.export.graphs.exact import require_exact_products
from kdserve.export.sequence.decoder import decoder_graph
from kdserve.export.sequence.encoder import encoder_graph, smoothed_encoder_graph
from kdserve.export.sequence.store import write_graphs
from kdserve.export.sequence.student import SequenceStudent
from kdserve.export.texts import calibration_batches
from kdserve.precisions import Precision
from kdserve.runtime.sequence.settings import DECODER_NAME, ENCODER_NAME, SOURCE_NAME, TARGET_NAME


def write_sequence(student: SequenceStudent, precision: Precision, folder: Path) -> None:
    """Write both graphs and their weights beside the tokenizers; `precision` is fp32 or int8."""
    weights, source_ids = student.weights, student.tokenizers.source_ids
    if precision.name == "fp32":
        encoder = encoder_graph(weights, Float32(), row_bits=32, table_bits=32, source_ids=source_ids)
        decoder = decoder_graph(weights.decoder, Float32(), table_bits=32, never=student.never)
    else:
        languages = (*student.settings.languages, *student.settings.weak_languages)
        ranges, development = calibration_batches(languages, folder / SOURCE_NAME)
        encoder = smoothed_encoder_graph(
            weights,
            ranges=ranges,
            development=development,
            table_bits=4 if student.table_bits == 4 else 8,
            source_ids=source_ids,
        )
        decoder = decoder_graph(weights.decoder, PerTokenInt8(), table_bits=8, never=student.never)
    graphs = {ENCODER_NAME: encoder, DECODER_NAME: decoder}
    for graph in graphs.values():
        require_exact_products(graph)
    write_graphs(graphs, folder)


def write_tokenizers(student: SequenceStudent, folder: Path) -> None:
    """Write the tokenizers, the source's with its limit and its padding inside."""
    tokenizers = student.tokenizers
    source = dict(tokenizers.source)
    limit = {"direction": "Right", "max_length": student.settings.max_tokens, "strategy": "LongestFirst", "stride": 0}
    names = {token["id"]: token["content"] for token in source["added_tokens"]}
    source["truncation"] = limit
    source["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": tokenizers.pad_id,
        "pad_type_id": 0,
        "pad_token": names.get(tokenizers.pad_id, ""),
    }
    _write_json(folder / SOURCE_NAME, source)
    _write_json(folder / TARGET_NAME, tokenizers.target)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
