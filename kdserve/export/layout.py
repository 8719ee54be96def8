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

from kdserve.export.student import Student, read_json
from kdserve.export.weights import Head
from kdserve.runtime.bundle import PROMPTS_NAME, TOKENIZER_NAME


def write_layout(student: Student, folder: Path) -> None:
    """Write everything but the graph, the card and the manifest."""
    prompts = {"query": student.prompts.query, "document": student.prompts.document}
    record = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    _write_json(folder / PROMPTS_NAME, record)
    write_tokenizer(student, folder)
    if student.head is not None:
        _write_body(student, folder)
        _write_modules(student, student.head, folder)


def write_tokenizer(student: Student, folder: Path) -> None:
    """Write the tokenizer, its limit and its padding inside."""
    _write_json(folder / TOKENIZER_NAME, _tokenizer(student))


def _write_body(student: Student, folder: Path) -> None:
    """Write what transformers looks for; every reader finds the limit under a name of its own."""
    body = student.folder / read_json(student.folder / "modules.json")[0]["path"]
    shutil.copyfile(body / "config.json", folder / "config.json")
    path = body / "tokenizer_config.json"
    known = read_json(path) if path.is_file() else {}
    limits = {"model_max_length": student.max_tokens, "max_length": student.max_tokens}
    special = {name: value for name, value in known.items() if name.endswith("_token") and isinstance(value, str)}
    if student.pad_token:
        special["pad_token"] = student.pad_token
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special, **limits})
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": student.max_tokens, "do_lower_case": False})


def _write_modules(student: Student, head: Head, folder: Path) -> None:
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    dense = [
        module["path"] for module in read_json(student.folder / "modules.json") if module["type"].endswith("Dense")
    ]
    for source in dense:
        modules.append(("Dense", f"{len(modules)}_Dense"))
        shutil.copytree(student.folder / source, folder / modules[-1][1])
    modules.append(("Normalize", f"{len(modules)}_Normalize"))
    (folder / modules[-1][1]).mkdir()
    (folder / "1_Pooling").mkdir()
    flags = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "lasttoken": "last"}
    pooling = {f"pooling_mode_{flag}": head.pooling == mode for flag, mode in flags.items()}
    width = head.dense[0].linear.weight.shape[0] if head.dense else student.dim
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **pooling})
    _write_json(folder / modules[-1][1] / "config.json", {})
    records = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", records)


def _tokenizer(student: Student) -> dict[str, Any]:
    tokenizer = dict(student.tokenizer)
    tokenizer["truncation"] = {
        "direction": "Right",
        "max_length": student.max_tokens,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokenizer["padding"] = student.pad_token and {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": added[student.pad_token],
        "pad_type_id": 0,
        "pad_token": student.pad_token,
    }
    return tokenizer


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
