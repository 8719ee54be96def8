"""The two student families: a token table and a mean, or the layers of a transformer under a token table.

Letters: B batch, T tokens, V vocabulary, W width of table and body, D width of the embedding (often W).
"""

from __future__ import annotations

import copy
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from kdserve.distill.data.vocabulary import PAD, SPECIAL_TOKENS
from kdserve.distill.students.grid import snap, snap_straight_through
from kdserve.quiet import quiet_transformers
from kdserve.recipe import StudentRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """Output of a student for a batch: unit vectors (B, D), each layer's hidden states (B, T, W), input first.

    `attention_BHTT` holds each layer's attention maps where they were asked for.
    """

    vectors_BD: Tensor
    hidden_BTW: tuple[Tensor, ...] = ()
    attention_BHTT: tuple[Tensor, ...] = ()


class Student(nn.Module, ABC):
    """A model from token ids to unit vectors. `table` is its token table: (V, W), or factors (V, R) and (R, W)."""

    wraps: bool
    """Whether texts stand between [CLS] and [SEP]."""

    def __init__(self, table_VW: Tensor, settings: StudentRecipe) -> None:
        super().__init__()
        self.bits, self.max_tokens = settings.table_bits, settings.max_tokens
        self.table = nn.Parameter(table_VW.clone())
        self.expand: nn.Parameter | None = None
        if settings.table_rank:
            factors = _factorise(table_VW, settings.table_rank)
            self.table, self.expand = nn.Parameter(factors[0]), nn.Parameter(factors[1])

    @abstractmethod
    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Encoding:
        """Embed a batch."""

    def look_up(self, ids_BT: Tensor) -> Tensor:
        """Return the table's rows (B, T, W), on the grid that they will be stored in."""
        rows = functional.embedding(ids_BT, self.table)
        if self.expand is not None:
            rows = rows @ self.expand
        return snap_straight_through(rows, bits=self.bits) if self._snaps else rows

    @torch.no_grad()
    def whole_table(self) -> Tensor:
        """Return the table (V, W) as it is stored."""
        table = self.table if self.expand is None else self.table @ self.expand
        return snap(table, bits=self.bits) if self._snaps else table.detach()

    @property
    def _snaps(self) -> bool:
        """A table that is not trained stays as it is: a teacher's may lie on a grid of its own already."""
        return self.bits > 0 and self.table.requires_grad

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
        else:  # without the rows (B, T, W) in between
            means_BD = functional.embedding_bag(ids_BT * mask_BT, self.table, mode="mean", padding_idx=PAD)
            means_BD = means_BD if self.expand is None else means_BD @ self.expand
        return Encoding(vectors_BD=functional.normalize(means_BD.float(), dim=-1))

    def modules_for_saving(  # the table is all there is: no body to write into `folder`
        self,
        tokenizer: Tokenizer,
        folder: Path,  # noqa: ARG002
        *,
        max_tokens: int,
    ) -> list[Any]:
        """Return StaticEmbedding and Normalize."""
        from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

        bare = Tokenizer.from_str(tokenizer.to_str())
        bare.post_processor = None
        bare.enable_truncation(max_tokens)
        return [StaticEmbedding(bare, embedding_weights=self.whole_table().cpu().float().numpy()), Normalize()]


class TransformerStudent(Student):
    """A body over the table; the mean of its last hidden states, which `dense` layers then lead to the embedding."""

    wraps = True

    def __init__(self, table_VW: Tensor, settings: StudentRecipe, *, body: Any, dense: Sequence[Any] = ()) -> None:
        super().__init__(table_VW, settings)
        body.set_input_embeddings(nn.Identity())  # the table stands above; saved back below
        self.body = body
        self.dense = nn.ModuleList(dense)

    def forward(self, ids_BT: Tensor, mask_BT: Tensor, *, attentions: bool = False) -> Encoding:
        """Embed a batch; with `attentions`, which needs plain ("eager") attention, keep the attention maps too."""
        rows = self.look_up(ids_BT)
        out = self.body(
            inputs_embeds=rows, attention_mask=mask_BT, output_hidden_states=True, output_attentions=attentions
        )
        features = {"sentence_embedding": mean_pool(out.last_hidden_state.float(), mask_BT)}
        for dense in self.dense:
            features = dense(features)
        vectors = functional.normalize(features["sentence_embedding"].float(), dim=-1)
        return Encoding(vectors_BD=vectors, hidden_BTW=out.hidden_states, attention_BHTT=out.attentions or ())

    def modules_for_saving(self, tokenizer: Tokenizer, folder: Path, *, max_tokens: int) -> list[Any]:
        """Return Transformer, Pooling, the dense layers and Normalize."""
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
        from transformers import PreTrainedTokenizerFast

        body = copy.deepcopy(self.body).cpu().float()
        table = self.whole_table().cpu().float()
        embedding = nn.Embedding(table.shape[0], table.shape[1], padding_idx=PAD, _weight=table)
        body.set_input_embeddings(embedding)
        body.config.vocab_size = len(table)
        body.save_pretrained(folder)
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL_TOKENS, strict=True))
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **names)
        fast.save_pretrained(folder)
        transformer = Transformer(str(folder))
        pooler = getattr(transformer.auto_model, "pooler", None)
        for parameter in pooler.parameters() if pooler else ():  # BertModel has one, drawn at random; unused here
            nn.init.zeros_(parameter)
        dense = [copy.deepcopy(module).cpu().float() for module in self.dense]
        return [transformer, Pooling(table.shape[1], pooling_mode="mean"), *dense, Normalize()]


def save_student(
    student: Student, tokenizer: Tokenizer, folder: Path, *, max_tokens: int, prompts: tuple[str, str] = ("", "")
) -> None:
    """Write a student into a folder that SentenceTransformer opens; `prompts` stand before documents and queries."""
    from sentence_transformers import SentenceTransformer

    body = folder / ".body"
    body.mkdir()
    with quiet_transformers():
        modules = student.modules_for_saving(tokenizer, body, max_tokens=max_tokens)
        named = dict(zip(("document", "query"), prompts, strict=True)) if any(prompts) else None
        model = SentenceTransformer(modules=modules, device="cpu", prompts=named)
        model.save(str(folder), create_model_card=False)
    shutil.rmtree(body)


def mean_pool(hidden_BTW: Tensor, mask_BT: Tensor) -> Tensor:
    """Average the rows of real tokens: (B, W). A text without tokens becomes zero, not NaN."""
    weights = mask_BT[..., None].to(hidden_BTW.dtype)
    return (hidden_BTW * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)


def _factorise(table_VW: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best rank-R factors (V, R) and (R, W) by singular values."""
    left, values, right = torch.linalg.svd(table_VW, full_matrices=False)
    root = values[:rank].sqrt()
    return (left[:, :rank] * root).contiguous(), (root[:, None] * right[:rank]).contiguous()
