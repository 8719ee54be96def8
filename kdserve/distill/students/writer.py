"""Students that write: layers of a teacher, a body of one's own size, or another student's encoder and a new decoder.

V vocabulary, H width
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from kdserve.distill.data.target_vocabulary import TARGET_END, TARGET_PAD
from kdserve.distill.data.vocabulary import PAD
from kdserve.distill.teachers.encoder_decoder import open_encoder, without_pooler
from kdserve.errors import RecipeError
from kdserve.quiet import quiet_transformers
from kdserve.recipe import WriterBodyRecipe, WriterStudentRecipe

ENCODER_TABLE = "encoder.embeddings.word_embeddings.weight"
_LAYER = re.compile(r"((?:model\.)?(encoder|decoder)\..*?(?:layers|block|layer)\.)(\d+)(\..*)")
_WARM_NOISE = 0.3


def keep_layers(model: Any, encoder: Sequence[int], decoder: Sequence[int]) -> Any:
    """Return a model of the same kind with copies of these layers; none: all of them.

    Raises:
        RecipeError: it has no such layer.
    """
    counts = _layer_names(model.config)
    chosen = {}
    for side, layers in (("encoder", encoder), ("decoder", decoder)):
        owner, name = counts[side]
        available = getattr(owner, name)
        if wrong := [layer for layer in layers if layer >= available]:
            raise RecipeError(
                f"student.{side}_layers names layer {wrong[0]}, but the teacher has layers 0 to {available - 1}"
            )
        chosen[side] = list(layers) or list(range(available))
    config = copy.deepcopy(model.config)
    for side, (owner, name) in _layer_names(config).items():
        setattr(owner, name, len(chosen[side]))
    student = _drawn(config, seed=0)
    stored = model.state_dict()
    taken = {name: stored[_original(name, chosen, stored)] for name in student.state_dict()}
    student.load_state_dict(taken)
    student.generation_config = copy.deepcopy(model.generation_config)
    return student


def resize(model: Any, size: WriterBodyRecipe, *, seed: int) -> Any:
    """Return a model of the same architecture and vocabulary, but of this size, drawn at random.

    Raises:
        RecipeError: the architecture is none of T5's, BART's and BERT's.
    """
    config = copy.deepcopy(model.config)
    if config.model_type == "encoder-decoder":
        for side, layers in ((config.encoder, size.encoder_layers), (config.decoder, size.decoder_layers)):
            side.hidden_size, side.num_hidden_layers = size.width, layers
            side.num_attention_heads, side.intermediate_size = size.heads, size.feed_forward
    elif hasattr(config, "num_decoder_layers"):
        config.d_model, config.d_kv, config.d_ff = size.width, size.width // size.heads, size.feed_forward
        config.num_layers, config.num_decoder_layers, config.num_heads = (
            size.encoder_layers,
            size.decoder_layers,
            size.heads,
        )
    elif hasattr(config, "encoder_ffn_dim"):
        config.d_model, config.num_hidden_layers = size.width, size.encoder_layers
        config.encoder_layers, config.decoder_layers = size.encoder_layers, size.decoder_layers
        config.encoder_attention_heads = config.decoder_attention_heads = size.heads
        config.encoder_ffn_dim = config.decoder_ffn_dim = size.feed_forward
    else:
        raise RecipeError(f"student.body has no form for a teacher of type {config.model_type}; take its layers")
    student = _drawn(config, seed=seed)
    student.generation_config = copy.deepcopy(model.generation_config)
    return student


def draw_writer(
    size: WriterBodyRecipe, settings: WriterStudentRecipe, source: Tokenizer, target: Tokenizer, *, seed: int
) -> Any:
    """Return BERT's layers on both sides, drawn at random, each with the vocabulary of its side."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=source.get_vocab_size(),
        hidden_size=size.width,
        num_hidden_layers=size.encoder_layers,
        num_attention_heads=size.heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=settings.max_tokens,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = BertModel(config, add_pooling_layer=False)
        return _joined(encoder, _decoder(config, target, settings, layers=size.decoder_layers))


def add_decoder(
    folder: Path,
    settings: WriterStudentRecipe,
    source: Tokenizer,
    target: Tokenizer,
    texts: Sequence[str],
    *,
    seed: int,
) -> Any:
    """Return the encoder of a student's folder, one that embeds or writes, or some of its layers, under a new decoder.

    Its states of `texts`, a few hundred, say where the decoder's attention to it begins.

    Raises:
        FolderError: its encoder is no BERT.
        RecipeError: it has no such layer, or fewer positions than `max_tokens`.
    """
    encoder = open_encoder(folder)
    available = encoder.config.num_hidden_layers
    if wrong := [layer for layer in settings.encoder_layers if layer >= available]:
        raise RecipeError(
            f"student.encoder_layers names layer {wrong[0]}, but {folder} has layers 0 to {available - 1}"
        )
    if encoder.config.max_position_embeddings < settings.max_tokens:
        most = encoder.config.max_position_embeddings
        raise RecipeError(f"student.max_tokens is {settings.max_tokens}, but {folder} has {most} positions; lower it")
    whole = list(encoder.encoder.layer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = _decoder(encoder.config, target, settings, layers=settings.num_decoder_layers)
        if settings.warm_decoder:
            _warm(decoder, encoder, whole, source, target)
    kept = settings.encoder_layers or range(available)
    encoder.encoder.layer = nn.ModuleList(whole[layer] for layer in kept)
    encoder.config.num_hidden_layers = len(kept)
    rows = [encoding.ids[: settings.max_tokens] for encoding in source.encode_batch_fast(list(texts))]
    _attend(decoder, encoder, rows, seed=seed)
    return _joined(encoder, decoder)


def _decoder(config: Any, target: Tokenizer, settings: WriterStudentRecipe, *, layers: int) -> Any:
    """Return a decoder of BERT's layers, of the encoder's width, whose output shares the table of its input."""
    from transformers import BertConfig, BertLMHeadModel

    return BertLMHeadModel(
        BertConfig(
            vocab_size=target.get_vocab_size(),
            hidden_size=config.hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            layer_norm_eps=config.layer_norm_eps,
            max_position_embeddings=settings.max_output_tokens + 1,
            type_vocab_size=1,
            is_decoder=True,
            add_cross_attention=True,
            pad_token_id=TARGET_PAD,
            bos_token_id=TARGET_PAD,
            eos_token_id=TARGET_END,
        )
    )


def _joined(encoder: Any, decoder: Any) -> Any:
    from transformers import EncoderDecoderModel

    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    for settings in (model.config, model.generation_config):
        settings.decoder_start_token_id = settings.pad_token_id = TARGET_PAD
        settings.eos_token_id = TARGET_END
    return model


@torch.no_grad()
def _attend(decoder: Any, encoder: Any, rows: Sequence[Sequence[int]], *, seed: int) -> None:
    """Begin with keys and values of mean zero and variance one over the encoder's states of some texts.

    An embedding model's states all lie near one direction: random weights of the usual size see little else, and a
    decoder learns to write without looking at its source.
    """
    states = []
    for row in (row for row in rows if row):
        ids = torch.tensor([list(row)])
        states.append(encoder.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0])
    states_NH = torch.cat(states) if states else torch.zeros(2, encoder.config.hidden_size)
    mean_H, spread_H = states_NH.mean(dim=0), states_NH.std(dim=0).clamp_min(1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in decoder.bert.encoder.layer:
            for part in (layer.crossattention.self.key, layer.crossattention.self.value):
                weight = torch.randn(part.weight.shape) / len(mean_H) ** 0.5 / spread_H
                part.weight.copy_(weight)
                part.bias.copy_(-(weight @ mean_H))
    encoder.train()


@torch.no_grad()
def _warm(decoder: Any, encoder: Any, layers: Sequence[nn.Module], source: Tokenizer, target: Tokenizer) -> None:
    """Begin with copies of encoder layers, and with rows that the encoder's table has for a token's letters.

    Rows lie around zero at the length that a row has whose products are logits of a normalised state.
    """
    ours = decoder.bert.encoder.layer
    for number, layer in enumerate(ours):
        from_layer = layers[round((number + 1) * len(layers) / len(ours)) - 1]
        layer.load_state_dict(from_layer.state_dict(), strict=False)
    table = encoder.get_input_embeddings().weight
    rows = decoder.get_input_embeddings().weight
    known = source.get_vocab()
    tokens = sorted(target.get_vocab(), key=target.get_vocab().__getitem__)
    spelled = source.encode_batch([token.replace("▁", " ") for token in tokens], add_special_tokens=False)
    warm = torch.randn(rows.shape) * _WARM_NOISE * table.std()
    for number, (token, spelling) in enumerate(zip(tokens, spelled, strict=True)):
        ids = [known[token]] if token in known else spelling.ids
        if ids and not token.startswith("<"):
            warm[number] += table[ids].mean(dim=0)
    warm -= warm.mean(dim=0)
    rows.copy_(nn.functional.normalize(warm, dim=-1))


def _drawn(config: Any, *, seed: int) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        return without_pooler(AutoModelForSeq2SeqLM.from_config(config).float())


def _layer_names(config: Any) -> dict[str, tuple[Any, str]]:
    """Return, for both sides, where a configuration says its number of layers."""
    if config.model_type == "encoder-decoder":
        return {side: (getattr(config, side), "num_hidden_layers") for side in ("encoder", "decoder")}
    if hasattr(config, "num_decoder_layers"):
        return {"encoder": (config, "num_layers"), "decoder": (config, "num_decoder_layers")}
    if hasattr(config, "encoder_layers"):
        return {side: (config, f"{side}_layers") for side in ("encoder", "decoder")}
    raise RecipeError(
        f"the teacher is of type {config.model_type}, whose layers cannot be taken; give the student a body"
    )


def _original(name: str, chosen: Mapping[str, Sequence[int]], stored: Mapping[str, Tensor]) -> str:
    """Return the teacher's name of a student's weight; T5's first layer holds a table of distances for all."""
    found = _LAYER.fullmatch(name)
    if not found:
        return name
    start, side, number, rest = found.groups()
    original = f"{start}{chosen[side][int(number)]}{rest}"
    return original if original in stored else name
