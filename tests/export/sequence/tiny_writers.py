"""Tiny encoder-decoders of every family, random, with a tokenizer of the sample corpus."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderModel,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForCausalLM,
    XLMRobertaModel,
)

from kdserve.samples import parallel

FAMILIES = ("marian", "bart", "mbart", "m2m_100", "t5", "mt5", "umt5", "bert-bert", "xlmr-xlmr")
PAD, START, END, GERMAN, ENGLISH = 0, 1, 2, 4, 5
TOLD_BY_TOKENS = ("mbart", "m2m_100")
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "de_DE", "en_XX"]
_VOCABULARY = 600
_OWN_VOCABULARY = 400


def tiny_writer(folder: Path, family: str, *, seed: int = 0) -> Path:
    """Write a transformers folder of the family, without a manifest."""
    torch.manual_seed(seed)
    model = _MODELS[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embed_positions" not in name or family not in ("marian", "m2m_100"):
                parameter.mul_(4)  # random models of the usual size say one token for ever
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(std=0.1)
        model.get_output_embeddings().weight[END] *= 1.7  # so that some outputs end early and others late
    model.tie_weights()
    model.eval()
    generation = model.generation_config
    generation.decoder_start_token_id, generation.pad_token_id = START, PAD
    generation.eos_token_id, generation.bos_token_id, generation.max_length = END, START, 40
    if family == "marian":
        generation.decoder_start_token_id, generation.bad_words_ids = PAD, [[PAD]]
        generation.forced_eos_token_id = END
    if family in TOLD_BY_TOKENS:
        generation.forced_bos_token_id = ENGLISH
        generation.decoder_start_token_id = END
    model.save_pretrained(folder)
    if family in ("bert-bert", "xlmr-xlmr"):
        _save_tokenizer(folder / "source", _VOCABULARY)
        _save_tokenizer(folder / "target", _OWN_VOCABULARY)
    else:
        _save_tokenizer(folder, _VOCABULARY, begin="en_XX" if family in TOLD_BY_TOKENS else "<s>")
    return folder


def _save_tokenizer(folder: Path, size: int, *, begin: str = "<s>") -> None:
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    own = Tokenizer.from_str(_trained(size))
    ids = [(token, _SPECIAL.index(token)) for token in (begin, "</s>")]
    own.post_processor = processors.TemplateProcessing(single=f"{begin} $A </s>", special_tokens=ids)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, **names)
    tokenizer.save_pretrained(folder)


@cache
def _trained(size: int) -> str:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    texts = [text for code in ("en", "de") for text in parallel()[code]]
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=_SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    spec = json.loads(tokenizer.to_str())
    vocabulary = spec["model"]["vocab"]
    spec["model"]["vocab"] = vocabulary[:size] + [[f"<extra{i}>", -100.0] for i in range(size - len(vocabulary))]
    return json.dumps(spec)


_BART = {
    "vocab_size": _VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128,
    "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END, "decoder_start_token_id": START,
    "init_std": 0.1, "forced_eos_token_id": None,
}  # fmt: skip
_T5 = {
    "vocab_size": _VOCABULARY, "d_model": 32, "d_kv": 12, "d_ff": 64, "num_layers": 2, "num_heads": 4,
    "relative_attention_max_distance": 20, "pad_token_id": PAD, "eos_token_id": END,
    "decoder_start_token_id": PAD,
}  # fmt: skip
_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.1,
    "pad_token_id": PAD,
}


def _pair(encoder: type, encoder_config: type, decoder: type, before: int) -> PreTrainedModel:
    positions = {"max_position_embeddings": 128 + before}
    source = encoder_config(**_BERT, **positions, vocab_size=_VOCABULARY)
    sizes = {**_BERT, "hidden_size": 48, "num_hidden_layers": 3}
    target = encoder_config(**sizes, **positions, vocab_size=_OWN_VOCABULARY, is_decoder=True, add_cross_attention=True)
    model = EncoderDecoderModel(encoder=encoder(source, add_pooling_layer=False), decoder=decoder(target))
    model.config.decoder_start_token_id, model.config.pad_token_id, model.config.eos_token_id = START, PAD, END
    return model


_MODELS = {
    "marian": lambda: MarianMTModel(MarianConfig(**_BART, activation_function="swish", scale_embedding=True)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**_BART)),
    "mbart": lambda: MBartForConditionalGeneration(MBartConfig(**_BART, scale_embedding=True)),
    "m2m_100": lambda: M2M100ForConditionalGeneration(M2M100Config(**_BART)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**_T5)),
    "mt5": lambda: MT5ForConditionalGeneration(
        MT5Config(**_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "umt5": lambda: UMT5ForConditionalGeneration(UMT5Config(**_T5, feed_forward_proj="gated-gelu")),
    "bert-bert": lambda: _pair(BertModel, BertConfig, BertLMHeadModel, 0),
    "xlmr-xlmr": lambda: _pair(XLMRobertaModel, XLMRobertaConfig, XLMRobertaForCausalLM, 1),
}
