"""From a bundle back to a student folder, to train on, to export anew, or to open in torch.

The graph's constants have the names of the weights' parts. Rounded weights times their scales are floats again, and
what the export moved between them (smoothing, the order of channels, signs) stays where it is: the function is the
same.

K input width, N output width, V vocabulary, H width
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

from kdserve.errors import FolderError
from kdserve.export.classifier import HEAD_NAME
from kdserve.export.graphs.table import BLOCK
from kdserve.export.read.bert import FAMILIES, POSITIONS_AFTER_PADDING
from kdserve.export.read.weights import Array
from kdserve.json_files import read_object
from kdserve.manifest import MANIFEST_NAME, kind_of, staged_folder, verify_folder, write_manifest
from kdserve.model_settings import StudentSettings
from kdserve.runtime.bundle import MODEL_NAME, TOKENIZER_NAME, BundleSettings
from kdserve.runtime.classifier import ClassifierSettings

_LEFT = {
    **dict.fromkeys(("query", "key", "value"), "attention_input"),
    "attention_output": "attention_output_input",
    "up": "up_input",
    "down": "down_input",
}
_NORMS = {"attention_norm": "attention", "output_norm": "output"}
_BIT_WIDTHS: Mapping[str, Literal[4, 8]] = {"uint8": 4, "int8": 8}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Constants:
    """A graph's constants by name; `steps` are the units of the activations that meet a weight, `widths` its K."""

    arrays: Mapping[str, npt.NDArray[Any]]
    steps: Mapping[str, npt.NDArray[Any]]
    widths: Mapping[str, int]


def reopen_bundle(bundle: Path, out: Path) -> None:
    """Write the student of a bundle, in any precision: static ones, classifiers over them, bodies of the BERT family.

    Raises:
        FolderError: the bundle is damaged or of another family, or `out` exists.
    """
    classifies = kind_of(bundle) == "classifier"
    manifest = verify_folder(bundle, kind="classifier" if classifies else "bundle")
    settings = (ClassifierSettings if classifies else BundleSettings).from_manifest(manifest, bundle)
    constants = _read_constants(bundle / MODEL_NAME)
    with staged_folder(out) as folder:
        shutil.copytree(bundle, folder, dirs_exist_ok=True, ignore=_left_behind)
        try:
            table = _table(constants)
            if settings.family == "static":
                tensors = {"embedding.weight": table}
                _write_json(
                    folder / "modules.json", [_module("StaticEmbedding", ""), _module("Normalize", "1_Normalize")]
                )
            else:
                tensors = _body(table, constants, read_object(folder / "config.json"))
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            if classifies:
                head = {"weight": constants.arrays["head_weight"][0], "bias": constants.arrays["head_bias"]}
                save_file(head, folder / HEAD_NAME)
        except KeyError as error:
            raise FolderError(f"{bundle / MODEL_NAME} lacks {error}; export the bundle again") from error
        tokenizer = read_object(folder / TOKENIZER_NAME)
        _write_json(folder / TOKENIZER_NAME, {**tokenizer, "padding": None, "truncation": None})
        described = _describe(settings, table.shape[1], _BIT_WIDTHS.get(constants.arrays["table"].dtype.name, 0))
        parents = {role: key for role, key in manifest.parents.items() if role != "student"}
        parents["bundle"] = manifest.fingerprint
        write_manifest(folder, kind="student", parents=parents, settings=described.to_json())


def _describe(bundle: ClassifierSettings | BundleSettings, width: int, table_bits: Literal[0, 4, 8]) -> StudentSettings:
    return StudentSettings(
        name=bundle.name,
        family=bundle.family,
        dim=bundle.dim if isinstance(bundle, BundleSettings) else width,
        max_tokens=bundle.max_tokens,
        languages=bundle.languages,
        weak_languages=bundle.weak_languages,
        table_bits=table_bits,
        labels=bundle.labels if isinstance(bundle, ClassifierSettings) else (),
    )


def _left_behind(_: str, names: list[str]) -> set[str]:
    return {MODEL_NAME, MANIFEST_NAME, "README.md"} & set(names)


def _read_constants(path: Path) -> _Constants:
    model = onnx.load(path, load_external_data=False)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    products = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    blocks = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    return _Constants(
        arrays=arrays,
        steps={node.input[1]: arrays[makers[node.input[0]].input[1]] for node in products},
        widths={
            node.input[1]: helper.get_attribute_value(next(a for a in node.attribute if a.name == "K"))
            for node in blocks
        },
    )


def _table(constants: _Constants) -> Array:
    """(V, H) as float32, whatever the graph stores it in."""
    stored, scales = constants.arrays["table"], constants.arrays.get("table_scales")
    if scales is None:
        return stored.astype(np.float32)
    table: Array = _levels(stored) * (scales if stored.dtype == np.int8 else np.repeat(scales, BLOCK, axis=1))
    return table


def _levels(stored: npt.NDArray[Any]) -> Array:
    """Unpack the last axis: int8 as it is, uint8 as two numbers each, the low one first, around 8."""
    if stored.dtype == np.int8:
        return stored.astype(np.float32)
    nibbles = np.stack([stored & 15, stored >> 4], axis=-1).astype(np.float32) - 8
    return nibbles.reshape(*stored.shape[:-1], -1)


def _weight(constants: _Constants, name: str, left: str) -> Array:
    """(K, N) as float32: of float graphs, of blocks, or of int8 with the smoothing of its left side multiplied in."""
    stored = constants.arrays[name]
    if stored.ndim == 2 and name not in constants.steps:
        return stored.astype(np.float32)
    scales = constants.arrays[f"{name}.scales"]
    if name in constants.widths:
        levels = _levels(stored) if stored.shape[-1] < BLOCK else stored.astype(np.float32) - 128
        return np.ascontiguousarray(
            (levels * scales[..., None]).reshape(len(stored), -1)[:, : constants.widths[name]].T
        )
    weight: Array = stored.astype(np.float32) * (scales / constants.steps[name])
    return weight * constants.arrays[left][:, None] if left in constants.arrays else weight


def _body(table: Array, constants: _Constants, config: Mapping[str, Any]) -> dict[str, Array]:
    """Name the weights as checkpoints of the family do; the row of the first segment is in the positions."""
    family = config["model_type"]
    if family not in FAMILIES or family == "mpnet":  # what MPNet knows of distances is spread out in the graph
        raise FolderError(f"a body of the family {family} cannot be read back from a bundle; static and BERT-like can")
    names = FAMILIES[family]
    positions = constants.arrays["positions"].astype(np.float32)
    if family in POSITIONS_AFTER_PADDING:
        positions = np.pad(positions, ((config["pad_token_id"] + 1, 0), (0, 0)))
    tensors = {"embeddings.word_embeddings.weight": table, "embeddings.position_embeddings.weight": positions}
    if segments := config.get("type_vocab_size"):
        tensors["embeddings.token_type_embeddings.weight"] = np.zeros((segments, table.shape[1]), dtype=np.float32)
    if family != "distilbert":  # transformers would draw one at random; nothing uses it
        width = table.shape[1]
        tensors |= {"pooler.dense.weight": np.zeros((width, width), dtype=np.float32)}
        tensors |= {"pooler.dense.bias": np.zeros(width, dtype=np.float32)}
    norms = {"embeddings.LayerNorm": "embedding"}
    for index in range(config[names.num_layers]):
        ours, theirs = f"layer{index}", f"{names.layer}.{index}"
        for part, left in _LEFT.items():
            weight = _weight(constants, f"{ours}.{part}", f"{ours}.{left}")
            tensors[f"{theirs}.{getattr(names, part)}.weight"] = np.ascontiguousarray(weight.T)
            bias = constants.arrays[f"{ours}.{part}.bias"]
            tensors[f"{theirs}.{getattr(names, part)}.bias"] = bias.astype(np.float32)
        norms |= {f"{theirs}.{getattr(names, part)}": f"{ours}.{norm}" for part, norm in _NORMS.items()}
    for theirs, ours in norms.items():
        tensors[f"{theirs}.weight"] = constants.arrays[f"{ours}.gain"].astype(np.float32)
        tensors[f"{theirs}.bias"] = constants.arrays[f"{ours}.shift"].astype(np.float32)
    return tensors


def _module(kind: str, path: str) -> dict[str, str]:
    return {"name": kind, "path": path, "type": f"sentence_transformers.models.{kind}"}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
