"""The files beside the graph, laid out so that other software finds what it expects.

sentence-transformers (its ONNX backend), transformers.js and fastembed read the same folder: the body's and
the tokenizer's configuration, the list of modules, the prompts, and `tokenizer.json` with its limit and its padding
inside. Names are the oldest that all versions know.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from kdserve.export.read.modules import POOLING_FLAGS
from kdserve.export.read.student import StudentFolder
from kdserve.export.read.weights import Head, StaticWeights
from kdserve.json_files import read_object
from kdserve.modules import read_modules
from kdserve.runtime.bundle import PROMPTS_NAME, TOKENIZER_NAME


def write_layout(student: StudentFolder, folder: Path) -> None:
    """Write everything but the graph, the card and the manifest."""
    prompts = {"query": student.prompts.query, "document": student.prompts.document}
    record: dict[str, Any] = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    if student.head and student.head.truncate_dim:
        record["truncate_dim"] = student.head.truncate_dim
    _write_json(folder / PROMPTS_NAME, record)
    write_tokenizer(student, folder)
    if student.head is not None:
        _write_body(student, folder)
        _write_modules(student, student.head, folder)


def write_tokenizer(student: StudentFolder, folder: Path) -> None:
    """Write the tokenizer, its limit and its padding inside."""
    _write_json(folder / TOKENIZER_NAME, _tokenizer(student))


def _write_body(student: StudentFolder, folder: Path) -> None:
    """Write what transformers looks for; every reader finds the limit under a name of its own."""
    shutil.copyfile(student.body / "config.json", folder / "config.json")
    path = student.body / "tokenizer_config.json"
    known = read_object(path) if path.is_file() else {}
    side = {} if student.tokenizer.truncation_side == "right" else {"truncation_side": "left"}
    limits = {"model_max_length": student.max_tokens, "max_length": student.max_tokens}
    special = {name: value for name, value in known.items() if name.endswith("_token") and isinstance(value, str)}
    if student.tokenizer.pad_token:
        special["pad_token"] = student.tokenizer.pad_token
    record = {"tokenizer_class": "PreTrainedTokenizerFast", **special, **limits, **side}
    _write_json(folder / "tokenizer_config.json", record)
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": student.max_tokens, "do_lower_case": False})


def _write_modules(student: StudentFolder, head: Head, folder: Path) -> None:
    sources = read_modules(student.folder)[2:]
    while sources and sources[-1].kind == "Normalize":
        sources.pop()
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    for source in sources:
        modules.append((source.kind, f"{len(modules)}_{source.kind}"))
        if source.folder.is_dir():
            shutil.copytree(source.folder, folder / modules[-1][1])
    modules.append(("Normalize", f"{len(modules)}_Normalize"))
    _write_json(folder / modules[-1][1] / "config.json", {})
    _write_json(folder / "1_Pooling" / "config.json", _pooling(head, student.width))
    records = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", records)


def _pooling(head: Head, width: int) -> dict[str, Any]:
    """Write one flag for each way to pool, and the names where they stand side by side, for their order."""
    config: dict[str, Any] = {"word_embedding_dimension": width}
    config |= {f"pooling_mode_{flag}": mode in head.pooling for flag, mode in POOLING_FLAGS.items()}
    return config | ({"pooling_mode": list(head.pooling)} if len(head.pooling) > 1 else {})


def _tokenizer(student: StudentFolder) -> dict[str, Any]:
    tokenizer, pad_token = dict(student.tokenizer.spec), student.tokenizer.pad_token
    tokenizer["truncation"] = {
        "direction": student.tokenizer.truncation_side.capitalize(),
        "max_length": student.max_tokens,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    if isinstance(student.weights, StaticWeights):
        tokenizer["post_processor"] = None  # StaticEmbedding adds no special tokens
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokenizer["padding"] = pad_token and {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": added[pad_token],
        "pad_type_id": 0,
        "pad_token": pad_token,
    }
    return tokenizer


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
