"""A folder's tokenizer, as sentence-transformers opens it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdserve.errors import FolderError
from kdserve.export.read.foreign import opening
from kdserve.runtime import library

Side = Literal["left", "right"]
_PADS = ("[PAD]", "<pad>", "<|padding|>")


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedTokenizer:
    """A tokenizer.json parsed, the token that fills batches, the limit where it names one, and which end it cuts."""

    spec: dict[str, Any]
    pad_token: str | None
    max_tokens: int | None
    truncation_side: Side


def open_tokenizer(body: Path, *, lowercase: bool, arguments: Mapping[str, Any]) -> OpenedTokenizer:
    """Open a transformer's tokenizer with transformers, which converts vocab.txt and SentencePiece models too.

    `arguments` are those that sentence-transformers passes on; with `lowercase` it puts that before all else
    (sentence_transformers/base/modules/transformer.py).

    Raises:
        FolderError: there is none, it is damaged, or runs code of its own or in Python only.
    """
    from transformers import AutoTokenizer

    with opening(body, "transformers"):
        opened = AutoTokenizer.from_pretrained(str(body), **arguments, local_files_only=True, trust_remote_code=False)
        if not hasattr(opened, "backend_tokenizer"):
            raise FolderError(
                f"{body} has a {type(opened).__name__}, which runs in Python; convert it to tokenizer.json"
            )
        names = sorted({"tokenizer.json", *opened.vocab_files_names.values()})
        if not any((body / name).is_file() for name in names):  # transformers would make one of special tokens alone
            raise FolderError(f"{body} has no tokenizer: none of {', '.join(names)}; download the folder again")
        spec = library.parse_spec(opened.backend_tokenizer.to_str())
    if lowercase:
        spec["normalizer"] = _lowercase_first(spec["normalizer"])
    return OpenedTokenizer(
        spec=spec,
        pad_token=_pad_token(spec, opened.pad_token),
        max_tokens=int(opened.model_max_length),
        truncation_side=opened.truncation_side,
    )


def open_static_tokenizer(body: Path) -> OpenedTokenizer:
    """Open a token table's tokenizer, a tokenizer.json."""
    path = body / "tokenizer.json"
    if not path.is_file():
        raise FolderError(f"{path} is missing; make or download the folder again")
    with opening(path, "tokenizers"):
        spec = library.parse_spec(path.read_text(encoding="utf-8"))
    truncation = spec["truncation"] or {}
    return OpenedTokenizer(
        spec=spec,
        pad_token=_pad_token(spec, None),
        max_tokens=truncation.get("max_length"),
        truncation_side="left" if truncation.get("direction") == "Left" else "right",
    )


def require_rows(spec: Mapping[str, Any], num_rows: int, folder: Path) -> None:
    """Refuse a tokenizer with a token that has no row in the table, by name."""
    vocabulary = library.open_tokenizer(json.dumps(spec)).get_vocab(with_added_tokens=True)
    beyond = [(number, token) for token, number in vocabulary.items() if number >= num_rows]
    if beyond:
        number, token = min(beyond)
        raise FolderError(
            f"{folder} gives token {token!r} the id {number}, beyond its table of {num_rows} rows; "
            "resize the table or remove the token"
        )


def _lowercase_first(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    """Put lower-casing before a normaliser's steps, unless it is one of them."""
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    lowercase = [] if any(step["type"] == "Lowercase" for step in steps) else [{"type": "Lowercase"}]
    return {"type": "Sequence", "normalizers": [*lowercase, *steps]}


def _pad_token(spec: Mapping[str, Any], named: str | None) -> str | None:
    added = [token["content"] for token in spec["added_tokens"]]
    return next((token for token in (named, *_PADS) if token in added), None)
