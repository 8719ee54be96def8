"""One student, one precision, both graphs and the tokenizers beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdserve.export.graphs.arithmetic import Arithmetic, Float32, PerTokenInt8
from kdserve.export.graphs.exact import require_exact_products
from kdserve.export.sequence.decoder import decoder_graph
from kdserve.export.sequence.encoder import encoder_graph
from kdserve.export.sequence.store import write_graphs
from kdserve.export.sequence.student import SequenceStudent
from kdserve.export.sequence.tables import RowBits
from kdserve.precisions import Precision, TableBits
from kdserve.runtime.sequence.settings import DECODER_NAME, ENCODER_NAME, SOURCE_NAME, TARGET_NAME, WEIGHTS_NAME


def write_sequence(student: SequenceStudent, precision: Precision, folder: Path) -> None:
    """Write both graphs and their weights; `precision` is fp32 or int8."""
    arithmetic: Arithmetic = Float32() if precision.name == "fp32" else PerTokenInt8()
    row_bits: RowBits = 32 if precision.name == "fp32" else 8
    table_bits: TableBits = 32 if precision.name == "fp32" else 4 if student.table_bits == 4 else 8
    graphs = {
        ENCODER_NAME: encoder_graph(
            student.weights,
            arithmetic,
            row_bits=row_bits,
            table_bits=table_bits,
            source_ids=student.tokenizers.source_ids,
        ),
        DECODER_NAME: decoder_graph(student.weights.decoder, arithmetic, table_bits=row_bits, never=student.never),
    }
    for graph in graphs.values():
        require_exact_products(graph)
    write_graphs(graphs, folder, weights=WEIGHTS_NAME)


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
