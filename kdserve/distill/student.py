"""The two student families: a token table and a mean, or the teacher's own layers under a new token table.

Letters: B batch, T tokens, V vocabulary, D width of table, body and embedding.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from kdserve.distill.grid import snap, snap_straight_through
from kdserve.distill.hardware import best_device
from kdserve.distill.teacher import Teacher
from kdserve.distill.vocabulary import CLS, PAD, SEP, SPECIAL_TOKENS, UNK
from kdserve.errors import RecipeError
from kdserve.recipe import StudentRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """What a student gives for a batch: unit vectors (B, D), and each layer's hidden states (B, T, D), input first."""

    vectors_BD: Tensor
    hidden_BTD: tuple[Tensor, ...]


class Student(nn.Module, ABC):
    """A model from token ids to unit vectors. `table` is its token table: (V, D), or factors (V, R) and (R, D)."""

    wraps: bool
    """Whether texts stand between [CLS] and [SEP]."""

    def __init__(self, table_VD: Tensor, settings: StudentRecipe) -> None:
        super().__init__()
        self.bits = settings.table_bits
        self.table = nn.Parameter(table_VD.clone())
        self.expand: nn.Parameter | None = None
        if settings.table_rank:
            factors = _factorise(table_VD, settings.table_rank)
            self.table, self.expand = nn.Parameter(factors[0]), nn.Parameter(factors[1])

    @abstractmethod
    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Encoding:
        """Embed a batch."""

    def look_up(self, ids_BT: Tensor) -> Tensor:
        """Return the table's rows (B, T, D), on the grid that they will be stored in."""
        rows = functional.embedding(ids_BT, self.table)
        if self.expand is not None:
            rows = rows @ self.expand
        return snap_straight_through(rows, bits=self.bits) if self.bits else rows

    @torch.no_grad()
    def whole_table(self) -> Tensor:
        """Return the table (V, D) as it is stored."""
        table = self.table if self.expand is None else self.table @ self.expand
        return snap(table, bits=self.bits) if self.bits else table.detach()

    @abstractmethod
    def modules_for_saving(self, tokenizer: Tokenizer, folder: Path, *, max_tokens: int) -> list[Any]:
        """Return the sentence-transformers modules that hold this student."""


class StaticStudent(Student):
    """The mean of the tokens' rows. It is trained off the grid, which is quicker: a mean evens the rounding out."""

    wraps = False

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Encoding:
        """Embed a batch."""
        if self.bits and not self.training:
            means_BD = mean_pool(self.look_up(ids_BT), mask_BT)
        else:  # without the rows (B, T, D) in between
            means_BD = functional.embedding_bag(ids_BT * mask_BT, self.table, mode="mean", padding_idx=PAD)
            means_BD = means_BD if self.expand is None else means_BD @ self.expand
        return Encoding(vectors_BD=functional.normalize(means_BD.float(), dim=-1), hidden_BTD=())

    def modules_for_saving(self, tokenizer: Tokenizer, folder: Path, *, max_tokens: int) -> list[Any]:
        """Return StaticEmbedding and Normalize."""
        from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

        bare = Tokenizer.from_str(tokenizer.to_str())
        bare.post_processor = None
        bare.enable_truncation(max_tokens)
        return [StaticEmbedding(bare, embedding_weights=self.whole_table().cpu().float().numpy()), Normalize()]


class TransformerStudent(Student):
    """A BERT body over the table; the mean of its last hidden states."""

    wraps = True

    def __init__(self, table_VD: Tensor, settings: StudentRecipe, *, body: Any) -> None:
        super().__init__(table_VD, settings)
        body.embeddings.word_embeddings = nn.Embedding(1, table_VD.shape[1])  # the table stands above; saved back below
        body.embeddings.word_embeddings.requires_grad_(False)
        self.body = body

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Encoding:
        """Embed a batch."""
        out = self.body(inputs_embeds=self.look_up(ids_BT), attention_mask=mask_BT, output_hidden_states=True)
        vectors = functional.normalize(mean_pool(out.last_hidden_state.float(), mask_BT), dim=-1)
        return Encoding(vectors_BD=vectors, hidden_BTD=out.hidden_states)

    def modules_for_saving(self, tokenizer: Tokenizer, folder: Path, *, max_tokens: int) -> list[Any]:
        """Return Transformer, Pooling and Normalize."""
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
        from transformers import PreTrainedTokenizerFast

        body = copy.deepcopy(self.body).cpu().float()
        table = self.whole_table().cpu().float()
        body.embeddings.word_embeddings = nn.Embedding(table.shape[0], table.shape[1], padding_idx=PAD, _weight=table)
        body.config.vocab_size = len(table)
        body.save_pretrained(folder)
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL_TOKENS, strict=True))
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **names)
        fast.save_pretrained(folder)
        transformer = Transformer(str(folder))
        for parameter in transformer.auto_model.pooler.parameters():  # BertModel has one, drawn at random; unused here
            nn.init.zeros_(parameter)
        return [transformer, Pooling(table.shape[1], pooling_mode="mean"), Normalize()]


def mean_pool(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Average the rows of real tokens: (B, D). A text without tokens becomes zero, not NaN."""
    weights = mask_BT[..., None].to(hidden_BTD.dtype)
    return (hidden_BTD * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)


def take_body(teacher: Teacher, settings: StudentRecipe) -> Any:
    """Return a BERT body that holds the chosen layers of the teacher's and as many positions as the student may use.

    Raises:
        RecipeError: the teacher's body is no BERT, or has no such layer.
    """
    source = teacher.model[0].auto_model
    if source.config.model_type != "bert":
        raise RecipeError(
            f"the teacher's body is {source.config.model_type}; the transformer family takes layers of BERT bodies, "
            'choose family = "static"'
        )
    available = source.config.num_hidden_layers
    wrong = [layer for layer in settings.layers if not 0 <= layer < available]
    if wrong:
        raise RecipeError(f"student.layers names layer {wrong[0]}, but the teacher has layers 0 to {available - 1}")
    if settings.max_tokens > source.config.max_position_embeddings:
        most = source.config.max_position_embeddings
        raise RecipeError(f"student.max_tokens is {settings.max_tokens}, but the teacher has {most} positions")
    body = copy.deepcopy(source).cpu().float()
    body.encoder.layer = nn.ModuleList(body.encoder.layer[layer] for layer in settings.layers)
    body.pooler = None
    positions = body.embeddings.position_embeddings.weight[: settings.max_tokens].detach().clone()
    body.embeddings.position_embeddings = nn.Embedding(len(positions), positions.shape[1], _weight=positions)
    body.embeddings.register_buffer("position_ids", torch.arange(settings.max_tokens)[None], persistent=False)
    body.embeddings.register_buffer("token_type_ids", torch.zeros(1, settings.max_tokens).long(), persistent=False)
    config = body.config
    config.num_hidden_layers, config.max_position_embeddings = len(settings.layers), settings.max_tokens
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = settings.dropout
    config.pad_token_id = PAD
    if best_device() == "cpu":  # the fused kernel's backward is slow there: half of the whole step on short texts
        body.set_attn_implementation("eager")
    for module in body.modules():
        if isinstance(module, nn.Dropout):
            module.p = settings.dropout
    return body


def teacher_input_table(teacher: Teacher) -> Tensor:
    """Return the teacher's own token table (V of the teacher, D)."""
    weight: Tensor = teacher.model[0].auto_model.get_input_embeddings().weight
    return weight.detach().float()


def copy_special_rows(table_VD: Tensor, teacher: Teacher) -> None:
    """Give [CLS], [SEP], [UNK] and [PAD] the rows that they have in the teacher's table."""
    tokenizer, rows = teacher.model.tokenizer, teacher_input_table(teacher).to(table_VD.device)
    for number, token in ((CLS, tokenizer.cls_token_id), (SEP, tokenizer.sep_token_id), (UNK, tokenizer.unk_token_id)):
        table_VD[number] = rows[token]
    table_VD[PAD] = 0.0


def _factorise(table_VD: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best rank-R factors (V, R) and (R, D) by singular values."""
    left, values, right = torch.linalg.svd(table_VD, full_matrices=False)
    root = values[:rank].sqrt()
    return (left[:, :rank] * root).contiguous(), (root[:, None] * right[:rank]).contiguous()
