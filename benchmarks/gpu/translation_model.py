"""The models of `translation.py`: BERT's layers under the pack's token table, and a decoder made of such layers."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertLMHeadModel, BertModel, EncoderDecoderModel

ENCODER_LAYERS = tuple(range(12))
ENCODER_KEPT = (0, 2, 4, 6, 8, 11)
DECODER_FROM = (2, 5, 8, 11)
DECODER_KEPT = (0, 3)
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "aln": "attention.output.LayerNorm",
    "oln": "output.LayerNorm",
}


def build_model(
    pack: Path, *, encoder_layers: Sequence[int] = ENCODER_LAYERS, decoder_layers: int = 4
) -> EncoderDecoderModel:
    """Return the pack's encoder, with some of its layers, and a decoder whose layers begin as copies of encoder layers.

    Cross-attention begins at random, over states of mean zero and variance one: an embedding model's lie near one
    direction, which a decoder does not see beyond by itself. A target token's row begins as the mean of the rows of
    what the source tokenizer makes of it (Rothe et al. 2020, arXiv:1907.12461, warm-start decoders likewise).
    """
    torch.manual_seed(1)
    stored = read_arrays(pack / "weights.npz.xz")
    target = read_tokenizer(pack / "target.json.xz")
    table = dequantised(stored["emb.word.q"])
    sizes = len(table), target.get_vocab_size()
    encoder, decoder = _bodies(stored, table.shape[1], sizes, layers=(len(encoder_layers), decoder_layers))
    taken = np.linspace(0, len(DECODER_FROM) - 1, decoder_layers).round().astype(int)
    _fill(encoder, stored, table, encoder_layers)
    rows = target_rows(pack, target, table)
    _fill(decoder.bert, stored, rows, [DECODER_FROM[i] for i in taken])
    attend(decoder, encoder, pack)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.config.decoder_start_token_id = model.config.pad_token_id = model.generation_config.pad_token_id = 0
    model.config.eos_token_id = model.generation_config.eos_token_id = 1
    model.generation_config.decoder_start_token_id = 0
    return model


@torch.no_grad()
def attend(decoder: BertLMHeadModel, encoder: BertModel, pack: Path, *, texts: int = 96) -> None:
    """Set the keys and values of cross-attention by the encoder's states of some of the pack's lines."""
    lines, source = read_xz(pack / "pairs.xz"), read_tokenizer(pack / "source.json.xz")
    encoder.eval()
    rows = [torch.tensor([source.encode(line).ids[:96]]) for line in lines[:: max(1, len(lines) // texts)]]
    states = torch.cat([encoder(input_ids=row).last_hidden_state[0] for row in rows])
    mean, spread = states.mean(dim=0), states.std(dim=0).clamp_min(1e-3)
    for layer in decoder.bert.encoder.layer:
        for part in (layer.crossattention.self.key, layer.crossattention.self.value):
            weight = torch.randn(part.weight.shape) / len(mean) ** 0.5 / spread
            part.weight.copy_(weight)
            part.bias.copy_(-(weight @ mean))


def shrink(
    teacher: EncoderDecoderModel, *, encoder: Sequence[int] = ENCODER_KEPT, decoder: Sequence[int] = DECODER_KEPT
) -> EncoderDecoderModel:
    """Return a copy with some of its layers (Shleifer & Rush 2020, arXiv:2010.13002)."""
    student = deepcopy(teacher)
    for body, kept in ((student.encoder, encoder), (student.decoder.bert, decoder)):
        body.encoder.layer = torch.nn.ModuleList(body.encoder.layer[i] for i in kept)
        body.config.num_hidden_layers = len(kept)
    for number, layer in enumerate(student.decoder.bert.encoder.layer):
        layer.attention.self.layer_idx = layer.crossattention.self.layer_idx = number
    return student


def target_rows(pack: Path, target: Tokenizer, table: Tensor) -> Tensor:
    """Return a row for each target token: around zero, of the usual size for a row that is also an output's."""
    source = read_tokenizer(pack / "source.json.xz")
    tokens = [target.id_to_token(i) for i in range(target.get_vocab_size())]
    whole = source.get_vocab()
    rows = torch.randn(len(tokens), table.shape[1]) * 0.3 * table.std()
    encodings = source.encode_batch([token.replace("▁", " ") for token in tokens], add_special_tokens=False)
    for number, (token, encoding) in enumerate(zip(tokens, encodings, strict=True)):
        ids = [whole[token]] if token in whole else encoding.ids
        if ids and not token.startswith("<"):
            rows[number] += table[ids].mean(dim=0)
    rows -= rows.mean(dim=0)
    return rows / rows.norm(dim=1, keepdim=True)


def read_xz(path: Path) -> list[str]:
    return lzma.decompress(path.read_bytes()).decode().split("\n")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(BytesIO(lzma.decompress(path.read_bytes()))) as stored:
        return dict(stored)


def read_tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_str(lzma.decompress(path.read_bytes()).decode())


def dequantised(blocks: np.ndarray) -> Tensor:
    """(N, K/32, 18) blocks of ggml's Q4_0 to (N, K): a half-precision scale, 16 low halves, 16 high ones."""
    scale = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    levels = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1).astype(np.float32) - 8
    return torch.from_numpy((levels * scale).reshape(len(blocks), -1))


def _bodies(
    stored: dict[str, np.ndarray], width: int, sizes: tuple[int, int], *, layers: tuple[int, int]
) -> tuple[BertModel, BertLMHeadModel]:
    """Return encoder and decoder, of so many tokens and layers, for the stored weights."""
    shared = {
        "hidden_size": width,
        "num_attention_heads": width // 32,
        "intermediate_size": len(stored["l0.fi.b"]),
        "max_position_embeddings": len(stored["emb.pos"]),
        "layer_norm_eps": float(stored["epsilon"]),
        "attention_probs_dropout_prob": 0.0,
    }
    reading = {"pad_token_id": 1, "type_vocab_size": len(stored["emb.type"])}
    writing = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, "type_vocab_size": 1}
    writing |= {"is_decoder": True, "add_cross_attention": True}
    configs = [
        BertConfig(vocab_size=size, num_hidden_layers=number, **shared, **own)
        for size, number, own in zip(sizes, layers, (reading, writing), strict=True)
    ]
    return BertModel(configs[0], add_pooling_layer=False), BertLMHeadModel(configs[1])


@torch.no_grad()
def _fill(body: BertModel, stored: dict[str, np.ndarray], table: Tensor, layers: Sequence[int]) -> None:
    """Put the pack's weights into a body, whose layers become copies of `layers`."""

    def put(weight: Tensor, value: Tensor | np.ndarray) -> None:
        weight.copy_(torch.as_tensor(np.asarray(value)).float().reshape(weight.shape))

    put(body.embeddings.word_embeddings.weight, table)
    put(body.embeddings.position_embeddings.weight, stored["emb.pos"])
    kinds = len(body.embeddings.token_type_embeddings.weight)
    put(body.embeddings.token_type_embeddings.weight, stored["emb.type"][:kinds])
    put(body.embeddings.LayerNorm.weight, stored["emb.ln.w"])
    put(body.embeddings.LayerNorm.bias, stored["emb.ln.b"])
    for layer, number in zip(body.encoder.layer, layers, strict=True):
        for short, long in _PARTS.items():
            module = layer.get_submodule(long)
            name = f"l{number}.{short}.w"
            put(module.weight, stored[name] if name in stored else dequantised(stored[f"{name}.q"]))
            put(module.bias, stored[f"l{number}.{short}.b"])
