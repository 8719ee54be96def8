"""The modules of a sentence-transformers folder, and what follows its body: pooling and further layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from kdserve.export.read.tensors import read_tensors
from kdserve.export.read.weights import (
    DenseActivation,
    DenseWeights,
    Head,
    HeadLayer,
    LinearWeights,
    NormWeights,
    Pooling,
    UnitLength,
)
from kdserve.json_files import read_object
from kdserve.modules import Module

POOLING_FLAGS: dict[str, Pooling] = {
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean_tokens": "weightedmean",
    "lasttoken": "lasttoken",
}
"""The flags of sentence-transformers before 6, in the order in which it sets several side by side."""
_LAYER_NORM_EPSILON = 1e-5
_VECTOR = "sentence_embedding"


def read_head(modules: Sequence[Module], record: Mapping[str, Any]) -> Head | str:
    """Read what follows a transformer, or say which part of it has no graph here.

    `record` is `config_sentence_transformers.json`, which holds the prompts and `truncate_dim`.
    """
    kinds = [module.kind for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        return f"a pipeline of {' + '.join(kinds)}; Transformer + Pooling has a graph, StaticEmbedding too"
    pooling = _pooling(read_object(modules[1].folder / "config.json"), record)
    if isinstance(pooling, str):
        return pooling
    layers: list[HeadLayer] = []
    for module in modules[2:]:
        layer = _layer(module)
        if isinstance(layer, str):
            return layer
        layers += [layer] if layer else []
    while layers and isinstance(layers[-1], UnitLength):  # bundles end with it anyway
        layers.pop()
    return Head(pooling=pooling, layers=tuple(layers), truncate_dim=read_truncate_dim(record))


def read_truncate_dim(record: Mapping[str, Any]) -> int | None:
    """Return how many numbers of a vector are kept, None for all. Raises ValueError where it is no count."""
    dim = record.get("truncate_dim")
    if dim is not None and (type(dim) is not int or dim < 1):
        raise ValueError(f"truncate_dim is {dim!r}")
    return dim


def _pooling(config: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[Pooling, ...] | str:
    """Read a pooling's modes: names since sentence-transformers 6, one flag for each mode before."""
    if not config.get("include_prompt", True) and any((record.get("prompts") or {}).values()):
        return (
            "a pooling that leaves the prompt out (include_prompt: false); bundles pool every token, so set it to true "
            "or empty the prompts in config_sentence_transformers.json"
        )
    flagged = [mode for flag, mode in POOLING_FLAGS.items() if config.get(f"pooling_mode_{flag}")]
    named = config.get("pooling_mode") or flagged or "mean"
    known: dict[str, Pooling] = {mode: mode for mode in POOLING_FLAGS.values()}
    modes = [named] if isinstance(named, str) else named
    if unknown := [mode for mode in modes if mode not in known]:
        return f"the pooling {unknown[0]!r}; {', '.join(known)} have a graph"
    return tuple(known[mode] for mode in modes)


def _layer(module: Module) -> HeadLayer | str | None:
    """Read one module behind the pooling; None does nothing, a string says what is not known of it."""
    if module.kind == "Dropout":
        return None
    if module.kind not in {"Dense", "LayerNorm", "Normalize"}:
        return f"a module {module.kind} behind the pooling; Dense, LayerNorm, Dropout and Normalize have one"
    path = module.folder / "config.json"
    config = read_object(path) if path.is_file() else {}
    names = {config.get("module_input_name") or _VECTOR, config.get("module_output_name") or _VECTOR}
    if names != {_VECTOR}:
        return f"a module {module.kind} from {' to '.join(sorted(names))}; only {_VECTOR} is known"
    if module.kind == "Normalize":
        return UnitLength()
    tensors = read_tensors(module.folder)
    if module.kind == "LayerNorm":
        return NormWeights(gain=tensors["norm.weight"], shift=tensors["norm.bias"], epsilon=_LAYER_NORM_EPSILON)
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = name.rsplit(".", 1)[-1]
    if config.get("use_residual"):
        return "a Dense module with use_residual"
    if not name.startswith("torch.nn.") or activation not in get_args(DenseActivation):
        return f"a Dense module with the activation {name}; {', '.join(get_args(DenseActivation))} have one"
    weight = np.ascontiguousarray(tensors["linear.weight"].T)
    bias = tensors["linear.bias"] if config.get("bias", True) else None
    return DenseWeights(linear=LinearWeights(weight=weight, bias=bias), activation=activation)
