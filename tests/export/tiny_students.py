"""Two small real students, built from the sample corpus: a two-layer BERT and a token table."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5EncoderModel,
    UMT5EncoderModel,
)

from kdserve.distill.data.vocabulary import train_unigram
from kdserve.manifest import write_manifest
from kdserve.samples import parallel

LANGUAGES = ["en", "de", "ja", "ru"]
MAX_TOKENS = 64
PAD = 0
_VOCABULARY = 1200
_WIDTH = 64


def tiny_transformer(folder: Path, *, table_bits: int = 0, layers: int = 2) -> Path:
    """Write a randomly initialised BERT student whose weights have outlier channels, as trained ones do."""
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * _WIDTH,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.08,
    )
    body = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for layer in body.encoder.layer:
            layer.attention.output.LayerNorm.weight[5] *= 3
            layer.output.LayerNorm.weight[7] *= 2
            layer.attention.self.query.bias.normal_(std=0.1)
            layer.output.dense.bias.normal_(std=0.1)
    source = _save_body(body, folder)
    modules = [Transformer(str(source), max_seq_length=MAX_TOKENS), Pooling(_WIDTH, "mean"), Normalize()]
    return _save(SentenceTransformer(modules=modules, device="cpu"), folder, "transformer", table_bits)


def tiny_plain(
    folder: Path, *, family: str = "bert", pooling: str = "mean", dense: bool = False, vocabulary: str = "Unigram"
) -> Path:
    """Write a plain sentence-transformers folder, without a manifest, of one of the families."""
    torch.manual_seed(4)
    body = _BODIES.get(family, _bert_like)(family)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    source = _save_body(body, folder, vocabulary)
    modules = [Transformer(str(source), max_seq_length=MAX_TOKENS), Pooling(_WIDTH, pooling)]
    if dense:
        modules.append(Dense(_WIDTH, 32, activation_function=torch.nn.Tanh()))
    prompts = {"query": "query: ", "document": "passage: "}
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


def _bert_like(family: str) -> PreTrainedModel:
    sizes = {"vocab_size": _VOCABULARY, "hidden_size": _WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "distilbert":
        sizes = {"vocab_size": _VOCABULARY, "dim": _WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 96}
    before = {"mpnet": 2, "roberta": PAD + 1, "xlm-roberta": PAD + 1}.get(family, 0)
    config = AutoConfig.for_model(family, **sizes, max_position_embeddings=MAX_TOKENS + before, pad_token_id=PAD)
    return AutoModel.from_config(config)


def _t5(family: str) -> PreTrainedModel:
    """A head is wider than the width over the heads, and distances reach past the last bucket."""
    config = AutoConfig.for_model(
        family.removesuffix("-gated"),
        vocab_size=_VOCABULARY,
        d_model=_WIDTH,
        d_kv=24,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        relative_attention_max_distance=40,
        feed_forward_proj="relu" if family == "t5" else "gated-gelu",
    )
    return {"t5": T5EncoderModel, "t5-gated": T5EncoderModel, "umt5": UMT5EncoderModel}[family](config)


def _modernbert(family: str) -> PreTrainedModel:
    """Two layers with a window of 8 tokens on either side between two with full attention."""
    config = ModernBertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=_WIDTH,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        local_attention=16,
        pad_token_id=PAD,
        attention_bias=family.endswith("-biases"),
        mlp_bias=family.endswith("-biases"),
        norm_bias=family.endswith("-biases"),
    )
    return ModernBertModel(config)


_BODIES = {"t5": _t5, "t5-gated": _t5, "umt5": _t5, "modernbert": _modernbert, "modernbert-biases": _modernbert}


def tiny_static(folder: Path, *, table_bits: int = 8) -> Path:
    """Write a static student whose table is random."""
    table = np.random.default_rng(5).standard_normal((_VOCABULARY, _WIDTH)).astype(np.float32)
    modules = [StaticEmbedding(_tokenizer(), embedding_weights=table), Normalize()]
    return _save(SentenceTransformer(modules=modules, device="cpu"), folder, "static", table_bits)


def _save_body(body: PreTrainedModel, folder: Path, vocabulary: str = "Unigram") -> Path:
    tokens = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_tokenizer(vocabulary), model_max_length=MAX_TOKENS, **tokens)
    source = folder.with_name(f"{folder.name}-body")
    body.save_pretrained(source)
    tokenizer.save_pretrained(source)
    return source


def _save(model: SentenceTransformer, folder: Path, family: str, table_bits: int) -> Path:
    model.save_pretrained(str(folder), create_model_card=False)
    settings: dict[str, Any] = {
        "family": family,
        "dim": _WIDTH,
        "max_tokens": MAX_TOKENS,
        "languages": LANGUAGES,
        "weak_languages": ["ja"],
        "name": f"tiny-{family}",
        "table_bits": table_bits,
        "recipe": {"objective": {"matryoshka": [32]}},
    }
    write_manifest(folder, kind="student", parents={"teacher": "0" * 64}, settings=settings)
    return folder


def _tokenizer(vocabulary: str = "Unigram") -> Tokenizer:
    return Tokenizer.from_str(_trained_tokenizer(vocabulary))


@cache
def _trained_tokenizer(vocabulary: str) -> str:
    corpus = parallel()
    texts = [text for code in LANGUAGES for text in corpus[code]]
    if vocabulary == "Unigram":
        return train_unigram(texts, _VOCABULARY).to_str()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    if vocabulary == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=_VOCABULARY, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=_VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str()
