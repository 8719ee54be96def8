"""Read a student folder, or any sentence-transformers folder: configuration and weights as arrays, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kdserve.errors import FolderError
from kdserve.export.bodies import can_read_body, read_body
from kdserve.export.table import TableBits
from kdserve.export.weights import Array, BertWeights, DenseWeights, Head, LinearWeights, Pooling, StaticWeights
from kdserve.manifest import MANIFEST_NAME, FileRecord, Manifest, hash_file, verify_folder
from kdserve.runtime.bundle import Prompts
from kdserve.runtime.normalizer import with_present_normalizer

_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_UNLIMITED = 1 << 20
_LIMITS = (
    ("config.json", "max_position_embeddings"),
    ("sentence_bert_config.json", "max_seq_length"),
    ("tokenizer_config.json", "model_max_length"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """A folder, read. `weights` is None where the body is of a family that has no graph here, `head` where what
    follows it has none, and for static students. `labels` are those of a classifier, whose own head stands beside.
    """

    folder: Path
    fingerprint: str
    parents: Mapping[str, str]
    name: str
    weights: BertWeights | StaticWeights | None
    head: Head | None
    dim: int
    tokenizer: dict[str, Any]
    pad_token: str | None
    max_tokens: int
    table_bits: TableBits
    languages: tuple[str, ...]
    weak_languages: tuple[str, ...]
    prompts: Prompts
    labels: tuple[str, ...] = ()


def read_student(folder: Path, *, languages: Sequence[str] = ()) -> Student:
    """Read a student made by kdserve, after checking it against its manifest, or a plain sentence-transformers folder.

    `languages` are those of a plain folder, which does not say.

    Raises:
        FolderError: damaged, or no such folder.
    """
    if (folder / MANIFEST_NAME).is_file():
        manifest = verify_folder(folder, kind="student")
    else:
        manifest = _plain_manifest(folder, languages)
    modules = [
        (module["type"].rsplit(".", 1)[-1], folder / module["path"]) for module in read_json(folder / "modules.json")
    ]
    body = modules[0][1]
    tokenizer = with_present_normalizer(read_json(body / "tokenizer.json"))
    settings = manifest.settings
    try:
        head = _head(modules)
        weights = _read_weights(modules, head)
        if isinstance(weights, StaticWeights):
            tokenizer["post_processor"] = None  # StaticEmbedding adds no special tokens
        return Student(
            folder=folder,
            fingerprint=manifest.fingerprint,
            parents=manifest.parents,
            name=settings["name"],
            weights=weights,
            head=head,
            dim=weights.dim if weights else _dim(body, head),
            tokenizer=tokenizer,
            pad_token=_pad_token(tokenizer),
            max_tokens=settings.get("max_tokens") or _max_tokens(body, weights),
            table_bits=settings["table_bits"] or 32,
            languages=tuple(settings["languages"]),
            weak_languages=tuple(settings["weak_languages"]),
            prompts=_prompts(folder),
            labels=tuple(settings.get("labels", ())),
        )
    except KeyError as error:
        raise FolderError(f"{folder} lacks {error}; distil or download it again") from error


def read_json(path: Path) -> Any:
    """Parse a JSON file of a folder.

    Raises:
        FolderError: missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read ({error}); make or download the folder again") from error


def _plain_manifest(folder: Path, languages: Sequence[str]) -> Manifest:
    if not folder.is_dir():
        raise FolderError(f"there is no folder {folder}; check the path")
    if not (folder / "modules.json").is_file():
        raise FolderError(f"{folder} is neither a student nor a sentence-transformers folder (no modules.json)")
    files = {
        path.relative_to(folder).as_posix(): FileRecord(size_bytes=path.stat().st_size, sha256=hash_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    settings = {"name": folder.resolve().name, "languages": list(languages), "weak_languages": [], "table_bits": 0}
    return Manifest(kind="student", made_by="sentence-transformers", settings=settings, files=files)


def _read_weights(modules: list[tuple[str, Path]], head: Head | None) -> BertWeights | StaticWeights | None:
    """Return the weights of a whole pipeline, or None where a part of it has no hand-written graph."""
    if [kind for kind, _ in modules if kind != "Normalize"] == ["StaticEmbedding"]:
        tensors = _tensors(modules[0][1])
        return StaticWeights(table=tensors["embedding.weight"])
    if head is None:
        return None
    config = read_json(modules[0][1] / "config.json")
    if not can_read_body(config):
        return None
    return replace(read_body(_tensors(modules[0][1]), config), head=head)


def _head(modules: list[tuple[str, Path]]) -> Head | None:
    """Read what follows a transformer, or None where it is no transformer or a part of it has no graph."""
    kinds = [kind for kind, _ in modules if kind != "Normalize"]  # bundles always normalise
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Dense"}:
        return None
    pooling = _pooling(read_json(modules[1][1] / "config.json"))
    dense = [_dense(path) for kind, path in modules if kind == "Dense"]
    if pooling is None or None in dense:
        return None
    return Head(pooling=pooling, dense=tuple(layer for layer in dense if layer is not None))


def _dim(body: Path, head: Head | None) -> int:
    """Return the vectors' width from the last dense layer or, under one of its names, the configuration; 0: unknown."""
    if head and head.dense:
        return int(head.dense[-1].linear.weight.shape[1])
    config = read_json(body / "config.json")
    return int(next((config[name] for name in ("hidden_size", "dim", "d_model") if name in config), 0))


def _pooling(config: Mapping[str, Any]) -> Pooling | None:
    """Read a pooling's mode: one name since sentence-transformers 6, one flag for each mode before."""
    if "pooling_mode" in config:
        return _POOLINGS.get(config["pooling_mode"])
    prefix = "pooling_mode_"
    chosen = [name.removeprefix(prefix) for name, value in config.items() if name.startswith(prefix) and value is True]
    names: dict[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
    return names.get(chosen[0]) if len(chosen) == 1 else None


def _dense(folder: Path) -> DenseWeights | None:
    config = read_json(folder / "config.json")
    activation = config.get("activation_function", "Identity").rsplit(".", 1)[-1]
    if activation not in {"Identity", "Tanh"}:
        return None
    tensors = _tensors(folder)
    weight = np.ascontiguousarray(tensors["linear.weight"].T)
    return DenseWeights(linear=LinearWeights(weight=weight, bias=tensors.get("linear.bias")), tanh=activation == "Tanh")


def _tensors(folder: Path) -> dict[str, Array]:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise FolderError(f"{folder} has no model.safetensors; pickled weights are never read, convert them first")
    try:
        tensors = {name: value.astype(np.float32) for name, value in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise FolderError(f"{path} cannot be read ({error}); make or download the folder again") from error
    if broken := [name for name, value in tensors.items() if not np.isfinite(value).all()]:
        raise FolderError(f"{path} holds NaN or infinity in {broken[0]}; make or download the folder again")
    return tensors


def _max_tokens(body: Path, weights: BertWeights | StaticWeights | None) -> int:
    """Return the limit of a plain folder: the lowest that its files name, never beyond its position table."""
    table = weights.positions if isinstance(weights, BertWeights) else None
    limits = [] if table is None else [len(table)]
    for name, key in _LIMITS:
        value = read_json(body / name).get(key) if (body / name).is_file() else None
        if value and value < _UNLIMITED:
            limits.append(int(value))
    return min(limits, default=512)


def _prompts(folder: Path) -> Prompts:
    """Return the prompts of a folder; `passage` is another word for `document`."""
    path = folder / "config_sentence_transformers.json"
    prompts = (read_json(path) if path.is_file() else {}).get("prompts", {})
    return Prompts(query=prompts.get("query", ""), document=prompts.get("document") or prompts.get("passage", ""))


def _pad_token(tokenizer: Mapping[str, Any]) -> str | None:
    added = [token["content"] for token in tokenizer["added_tokens"]]
    return next((token for token in ("[PAD]", "<pad>", "<|padding|>") if token in added), None)
