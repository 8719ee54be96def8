"""The student of `summaries.py` as a small file: the source's table in 4 bits, other matrices in 8, the rest in halves.

N rows, K columns
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertLMHeadModel, BertModel, EncoderDecoderModel
from translation_model import dequantised, read_arrays

SOURCE_TABLE = "encoder.embeddings.word_embeddings.weight"
TARGET_TABLE = "decoder.bert.embeddings.word_embeddings.weight"
TIED = "decoder.cls.predictions.decoder."


def stored(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of a student's file; its source table has to lie on the grid of 4-bit blocks already."""
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if name == SOURCE_TABLE:
            arrays[f"{name}.q4"] = blocks(tensor)
        elif tensor.ndim == 2 and len(tensor) > 2:
            scale = (np.abs(tensor).max(axis=1, keepdims=True) / 127 + 1e-12).astype(np.float32)
            arrays[f"{name}.q8"] = np.round(tensor / scale).astype(np.int8)
            arrays[f"{name}.scale"] = scale
        else:
            arrays[name] = tensor.astype(np.float16)
    return arrays


def blocks(table_NK: np.ndarray) -> np.ndarray:
    """(N, K) to blocks (N, K/32, 18) of ggml's Q4_0, what `dequantised` reads: the largest of a block is level -8."""
    parts = table_NK.reshape(-1, 32)
    largest = np.take_along_axis(parts, np.abs(parts).argmax(axis=1)[:, None], axis=1)
    scale = (largest / -8).astype(np.float16)
    divisor = np.where(scale == 0, 1, scale).astype(np.float32)
    levels = (np.round(parts / divisor) + 8).clip(0, 15).astype(np.uint8)
    packed = np.concatenate([scale.view(np.uint8), levels[:, :16] | levels[:, 16:] << 4], axis=1)
    return packed.reshape(len(table_NK), -1, 18)


def read_model(pack: Path) -> EncoderDecoderModel:
    config = json.loads((pack / "config.json").read_text("utf-8"))
    encoder = BertModel(BertConfig(**config["encoder"]), add_pooling_layer=False)
    decoder = BertLMHeadModel(BertConfig(**config["decoder"]))
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    arrays = read_arrays(pack / "weights.npz.xz")
    tensors: dict[str, Tensor] = {}
    for name, array in arrays.items():
        whole, _, form = name.rpartition(".")
        if form == "q4":
            tensors[whole] = dequantised(array)
        elif form == "q8":
            tensors[whole] = torch.from_numpy(array * arrays[f"{whole}.scale"])
        elif form != "scale":
            tensors[name] = torch.from_numpy(array.astype(np.float32))
    missing, unknown = model.load_state_dict(tensors, strict=False)
    assert not unknown, unknown
    assert all(name.startswith(TIED) for name in missing), missing
    decoder.tie_weights()
    for part in (model.config, model.generation_config):
        part.decoder_start_token_id = part.pad_token_id = 0
        part.eos_token_id = 1
    return model
