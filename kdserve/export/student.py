"""Read a student folder: configuration and weights as arrays, no torch.

V vocabulary, H hidden width, F feed-forward width, P positions
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from kdserve.errors import FolderError
from kdserve.export.table import TableBits
from kdserve.manifest import verify_folder

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearWeights:
    """`x @ weight + bias`: weight (in, out), bias (out,)."""

    weight: Array
    bias: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class NormWeights:
    """Layer normalisation: gain and shift (H,), and the epsilon under its root."""

    gain: Array
    shift: Array
    epsilon: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """One post-norm transformer layer: attention (H, H), feed-forward (H, F) and (F, H)."""

    query: LinearWeights
    key: LinearWeights
    value: LinearWeights
    attention_output: LinearWeights
    attention_norm: NormWeights
    up: LinearWeights
    down: LinearWeights
    output_norm: NormWeights


@dataclass(frozen=True, kw_only=True, slots=True)
class BertWeights:
    """A BERT body: tables (V, H) and (P, H), the latter with the segment row added in."""

    table: Array
    positions: Array
    embedding_norm: NormWeights
    layers: tuple[LayerWeights, ...]
    num_heads: int
    activation: Literal["Gelu", "FastGelu"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticWeights:
    """A token table (V, H) whose mean is the vector."""

    table: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """A student folder, read."""

    folder: Path
    fingerprint: str
    parents: Mapping[str, str]
    name: str
    weights: BertWeights | StaticWeights
    tokenizer: dict[str, Any]
    pad_token: str | None
    max_tokens: int
    table_bits: TableBits
    languages: tuple[str, ...]
    weak_languages: tuple[str, ...]


def read_student(folder: Path) -> Student:
    """Verify a student folder against its manifest and read it.

    Raises:
        FolderError: damaged, no student, or a body that this exporter does not write.
    """
    manifest = verify_folder(folder, kind="student")
    settings = manifest.settings
    modules = read_json(folder / "modules.json")
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["StaticEmbedding", "Normalize"], ["Transformer", "Pooling", "Normalize"]):
        raise FolderError(f"{folder} has the modules {', '.join(kinds)}; only students made by kdserve can be exported")
    body = folder / modules[0]["path"]
    tensors = {name: value.astype(np.float32) for name, value in load_file(body / "model.safetensors").items()}
    weights = _static(tensors) if len(kinds) == 2 else _bert(tensors, read_json(body / "config.json"), folder)
    tokenizer = read_json(body / "tokenizer.json")
    if isinstance(weights, StaticWeights):
        tokenizer["post_processor"] = None  # StaticEmbedding adds no special tokens
    try:
        return Student(
            folder=folder,
            fingerprint=manifest.fingerprint,
            parents=manifest.parents,
            name=settings["name"],
            weights=weights,
            tokenizer=tokenizer,
            pad_token=next((token for token in ("[PAD]", "<pad>") if token in _added_tokens(tokenizer)), None),
            max_tokens=settings["max_tokens"],
            table_bits=settings["table_bits"] or 32,
            languages=tuple(settings["languages"]),
            weak_languages=tuple(settings["weak_languages"]),
        )
    except KeyError as error:
        raise FolderError(f"the manifest of {folder} lacks the setting {error}; distil the student again") from error


def read_json(path: Path) -> Any:
    """Parse a JSON file of a folder.

    Raises:
        FolderError: missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read ({error}); make the folder again") from error


def _added_tokens(tokenizer: Mapping[str, Any]) -> list[str]:
    return [token["content"] for token in tokenizer["added_tokens"]]


def _static(tensors: Mapping[str, Array]) -> StaticWeights:
    return StaticWeights(table=tensors["embedding.weight"])


def _bert(tensors: Mapping[str, Array], config: Mapping[str, Any], folder: Path) -> BertWeights:
    activations: dict[str, Literal["Gelu", "FastGelu"]] = {"gelu": "Gelu", "gelu_new": "FastGelu"}
    if config["model_type"] != "bert" or config["hidden_act"] not in activations:
        raise FolderError(f"{folder} holds a {config['model_type']} with {config['hidden_act']}; BERT with GELU is due")

    def linear(name: str) -> LinearWeights:
        weight = np.ascontiguousarray(tensors[f"{name}.weight"].T)
        return LinearWeights(weight=weight, bias=tensors[f"{name}.bias"])

    def norm(name: str) -> NormWeights:
        gain, shift = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return NormWeights(gain=gain, shift=shift, epsilon=config["layer_norm_eps"])

    def layer(name: str) -> LayerWeights:
        return LayerWeights(
            query=linear(f"{name}.attention.self.query"),
            key=linear(f"{name}.attention.self.key"),
            value=linear(f"{name}.attention.self.value"),
            attention_output=linear(f"{name}.attention.output.dense"),
            attention_norm=norm(f"{name}.attention.output.LayerNorm"),
            up=linear(f"{name}.intermediate.dense"),
            down=linear(f"{name}.output.dense"),
            output_norm=norm(f"{name}.output.LayerNorm"),
        )

    try:
        segments = tensors["embeddings.token_type_embeddings.weight"]
        return BertWeights(
            table=tensors["embeddings.word_embeddings.weight"],
            positions=tensors["embeddings.position_embeddings.weight"] + segments[0],
            embedding_norm=norm("embeddings.LayerNorm"),
            layers=tuple(layer(f"encoder.layer.{i}") for i in range(config["num_hidden_layers"])),
            num_heads=config["num_attention_heads"],
            activation=activations[config["hidden_act"]],
        )
    except KeyError as error:
        raise FolderError(f"the weights of {folder} lack {error}; distil the student again") from error
