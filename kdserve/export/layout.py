"""The files beside the graph, laid out so that other software finds what it expects.

sentence-transformers (ONNX backend), transformers.js and fastembed read the same folder: the body's and the tokenizer's
configuration, the list of modules, the prompts, and `tokenizer.json` with its limit and its padding inside.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from kdserve.export.student import Student, read_json
from kdserve.manifest import MANIFEST_NAME
from kdserve.runtime.bundle import PROMPTS_NAME, TOKENIZER_NAME

_NOT_COPIED = {MANIFEST_NAME, TOKENIZER_NAME, PROMPTS_NAME, "model.safetensors.index.json", "data_config.json"}


def write_layout(student: Student, folder: Path) -> None:
    """Write everything but the graph, the card and the manifest."""
    _write_json(folder / TOKENIZER_NAME, _tokenizer(student))
    prompts = {"query": student.prompts.query, "document": student.prompts.document}
    source = student.folder / PROMPTS_NAME
    known = read_json(source) if source.is_file() else {}
    record = {"similarity_fn_name": "cosine", **known, "prompts": prompts, "default_prompt_name": None}
    _write_json(folder / PROMPTS_NAME, {name: value for name, value in record.items() if name != "__version__"})
    for path in sorted(student.folder.rglob("*.json")):
        if path.name not in _NOT_COPIED:
            target = folder / path.relative_to(student.folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    for path in sorted(student.folder.glob("*_Dense/model.safetensors")):
        shutil.copyfile(path, folder / path.relative_to(student.folder))


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


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
