"""Bodies of transformer students: layers of the teacher's, or layers of one's own size drawn at random.

Two architectures: BERT (layers that normalise after each sum, a position table) and the encoder of T5 and mT5 (layers
that normalise before, positions as a bias of the attention that the first layer holds for all).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdserve.distill.data.vocabulary import CLS, PAD, SEP, UNK
from kdserve.distill.hardware import best_device
from kdserve.distill.teachers.embedder import Teacher
from kdserve.errors import RecipeError
from kdserve.recipe import BodyRecipe, StudentRecipe

_T5 = ("t5", "mt5")
PARTS = ("query", "key", "value")


def take_body(teacher: Teacher, settings: StudentRecipe) -> Any:
    """Return a body that holds the chosen layers of the teacher's and as many positions as the student may use.

    Raises:
        RecipeError: the teacher's body is neither BERT nor T5, or has no such layer or position.
    """
    source = teacher.body
    kind = source.config.model_type
    if kind not in ("bert", *_T5):
        raise RecipeError(
            f"the teacher's body is {kind}; layers can be taken of BERT and T5 bodies, "
            'give the student a body of its own (student.body.width) or choose family = "static"'
        )
    available = source.config.num_hidden_layers
    wrong = [layer for layer in settings.layers if not 0 <= layer < available]
    if wrong:
        raise RecipeError(f"student.layers names layer {wrong[0]}, but the teacher has layers 0 to {available - 1}")
    body = copy.deepcopy(source).cpu().float()
    if kind in _T5:
        _keep_t5_layers(body, settings.layers)
    else:
        require_positions(body, settings.max_tokens)
        _keep_bert_layers(body, settings)
    return ready_for_training(body, settings)


def draw_body(size: BodyRecipe, settings: StudentRecipe, *, seed: int) -> Any:
    """Return a BERT body of the recipe's own size, its weights drawn at random from `seed`."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=1,  # the token table stands outside of the body
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=settings.max_tokens,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = BertModel(config, add_pooling_layer=False)
    return ready_for_training(body, settings)


def ready_for_training(body: Any, settings: StudentRecipe) -> Any:
    """Set dropout, padding and the kind of attention; return the body."""
    config = body.config
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate"):
        if hasattr(config, name):
            setattr(config, name, settings.dropout)
    config.pad_token_id = PAD
    if best_device() == "cpu":  # the fused kernel's backward is slow there: half of the whole step on short texts
        body.set_attn_implementation("eager")
    for module in body.modules():
        if isinstance(module, nn.Dropout):
            module.p = settings.dropout
    return body


def require_positions(body: Any, max_tokens: int) -> None:
    """Refuse to read more tokens than the body has positions; a T5 body has no end of them.

    Raises:
        RecipeError: there are fewer.
    """
    most = getattr(body.config, "max_position_embeddings", max_tokens)
    if max_tokens > most:
        raise RecipeError(f"student.max_tokens is {max_tokens}, but the body to start from has {most} positions")


def projections(body: Any, layer: int) -> dict[str, nn.Module]:
    """Return a layer's linear maps to queries, keys and values, by the names in `PARTS`."""
    if body.config.model_type in _T5:
        attention = body.encoder.block[layer].layer[0].SelfAttention
        return dict(zip(PARTS, (attention.q, attention.k, attention.v), strict=True))
    attention = body.encoder.layer[layer].attention.self
    return {part: getattr(attention, part) for part in PARTS}


def teacher_input_table(teacher: Teacher) -> Tensor:
    """Return the teacher's own token table (V of the teacher, D)."""
    weight: Tensor = teacher.body.get_input_embeddings().weight
    return weight.detach().float()


def copy_special_rows(table_VD: Tensor, teacher: Teacher) -> None:
    """Give [CLS], [SEP], [UNK] and [PAD] the rows that they have in the teacher's table.

    T5 ends a text with </s> and begins it with nothing: its </s> is our [SEP], and [CLS] starts from zero.
    """
    tokenizer, rows = teacher.model.tokenizer, teacher_input_table(teacher).to(table_VD.device)
    last = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
    for number, token in ((CLS, tokenizer.cls_token_id), (SEP, last), (UNK, tokenizer.unk_token_id)):
        table_VD[number] = 0.0 if token is None else rows[token]
    table_VD[PAD] = 0.0


def teacher_dense(teacher: Teacher) -> list[Any]:
    """Return copies of the dense layers that follow the teacher's pooling: a student with its body needs them too.

    Raises:
        RecipeError: something else follows.
    """
    names = [type(module).__name__ for module in teacher.model]
    strange = set(names[1:]) - {"Pooling", "Dense", "Normalize"}
    if strange:
        raise RecipeError(
            f"the teacher's body is followed by {strange.pop()}, which students cannot take over; "
            'give the student a body of its own (student.body.width) or choose family = "static"'
        )
    return [copy.deepcopy(module).cpu().float() for module in teacher.model if type(module).__name__ == "Dense"]


def _keep_bert_layers(body: Any, settings: StudentRecipe) -> None:
    body.encoder.layer = _copies(body, body.encoder.layer, settings.layers)
    body.pooler = None
    positions = body.embeddings.position_embeddings.weight[: settings.max_tokens].detach().clone()
    body.embeddings.position_embeddings = nn.Embedding(len(positions), positions.shape[1], _weight=positions)
    body.embeddings.register_buffer("position_ids", torch.arange(settings.max_tokens)[None], persistent=False)
    body.embeddings.register_buffer("token_type_ids", torch.zeros(1, settings.max_tokens).long(), persistent=False)
    body.config.num_hidden_layers = len(settings.layers)
    body.config.max_position_embeddings = settings.max_tokens


def _keep_t5_layers(body: Any, layers: tuple[int, ...]) -> None:
    """Keep some blocks; the position bias moves from the first of the old ones to the first of those kept."""
    old_first = body.encoder.block[0].layer[0].SelfAttention
    bias = old_first.relative_attention_bias
    del old_first.relative_attention_bias
    old_first.has_relative_attention_bias = False
    body.encoder.block = _copies(body, body.encoder.block, layers)
    first = body.encoder.block[0].layer[0].SelfAttention
    first.relative_attention_bias, first.has_relative_attention_bias = bias, True
    body.config.num_layers = len(layers)


def _copies(body: Any, layers: nn.ModuleList, numbers: Sequence[int]) -> nn.ModuleList:
    """Copy layers, each as often as it is named; the body's configuration, which they hold too, stays one."""
    return nn.ModuleList(copy.deepcopy(layers[number], {id(body.config): body.config}) for number in numbers)
