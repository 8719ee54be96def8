"""Distil the inside of the teacher's body: hidden states, and the relations among queries, keys and values.

Teacher and student cut a sentence into different tokens, so both objectives compare words: the states of a word's
tokens are averaged, words being what spaces separate. They see source sentences, the only ones that the teacher reads.

Letters: B sentences, T tokens, W words, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from kdserve.distill.corpus import Corpus
from kdserve.distill.student import TransformerStudent
from kdserve.distill.teacher import Teacher
from kdserve.distill.vocabulary import PAD
from kdserve.errors import RecipeError
from kdserve.recipe import LayerRecipe

_PARTS = ("query", "key", "value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Sentences as one tokenizer cuts them. `word_BT` numbers each token's word from 1; 0 is no word."""

    ids_BT: Tensor
    mask_BT: Tensor
    word_BT: Tensor


class LayerDistillation(nn.Module):
    """Losses over the layer map of a recipe: pairs of (student layer, teacher layer), both from 0.

    Hidden states: mean squared error of word states, through a learned projection where widths differ (TinyBERT, Jiao
    et al. 2020). Relations: KL of the softmaxed Q-Q, K-K and V-V products among words (MiniLMv2, Wang et al. 2021).
    """

    def __init__(
        self, recipe: LayerRecipe, teacher: Teacher, student: TransformerStudent, tokenizer: Tokenizer, corpus: Corpus
    ) -> None:
        super().__init__()
        self.recipe, self.corpus, self.tokenizer = recipe, corpus, tokenizer
        self.pairs = [(int(ours), int(theirs)) for ours, theirs in recipe.map]
        teacher_body = teacher.model[0].auto_model
        self._teacher = [teacher_body]  # in a list: not a submodule, so it is neither trained nor saved
        self._teacher_tokenizer = teacher.model.tokenizer.backend_tokenizer
        _check_map(self.pairs, student.body, teacher_body)
        widths = student.body.config.hidden_size, teacher_body.config.hidden_size
        self.projection = nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False)

    def forward(self, student: TransformerStudent, target_B: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Return {name: (weight, loss)} for up to `batch_size` different source sentences of the batch."""
        numbers = torch.unique(target_B)[: self.recipe.batch_size].tolist()
        texts = self.corpus.sources.select(numbers)
        ours = _tokenize(self.tokenizer, texts, limit=student.body.config.max_position_embeddings)
        theirs = _tokenize(self._teacher_tokenizer, texts, limit=student.body.config.max_position_embeddings)
        device = target_B.device
        ours, theirs = _to(ours, device), _to(theirs, device)
        num_words = int(min(ours.word_BT.max(), theirs.word_BT.max()))
        teacher = self._teacher[0].to(device)
        with torch.no_grad(), _Recorder(teacher, [layer for _, layer in self.pairs]) as teacher_record:
            hidden = teacher(input_ids=theirs.ids_BT, attention_mask=theirs.mask_BT, output_hidden_states=True)
        with _Recorder(student.body, [layer for layer, _ in self.pairs]) as student_record:
            encoding = student(ours.ids_BT, ours.mask_BT)
        losses: dict[str, tuple[float, Tensor]] = {}
        if self.recipe.hidden:
            parts = [
                _hidden_loss(
                    self.projection(pool_words(encoding.hidden_BTW[s + 1].float(), ours.word_BT, num_words)),
                    pool_words(hidden.hidden_states[t + 1].float(), theirs.word_BT, num_words),
                    _has_word(ours, theirs, num_words),
                )
                for s, t in self.pairs
            ]
            losses["hidden"] = self.recipe.hidden, torch.stack(parts).mean()
        if self.recipe.relations:
            parts = [
                relation_loss(
                    pool_words(student_record.states[s][part].float(), ours.word_BT, num_words),
                    pool_words(teacher_record.states[t][part].float(), theirs.word_BT, num_words),
                    _has_word(ours, theirs, num_words),
                    heads=self.recipe.relation_heads,
                )
                for s, t in self.pairs
                for part in _PARTS
            ]
            losses["relations"] = self.recipe.relations, torch.stack(parts).mean()
        return losses


def pool_words(states_BTD: Tensor, word_BT: Tensor, num_words: int) -> Tensor:
    """Average the states of each word's tokens: (B, W, D), zero for a word that a sentence does not have."""
    numbers = torch.arange(1, num_words + 1, device=word_BT.device)
    belongs_BWT = (word_BT[:, None, :] == numbers[None, :, None]).to(states_BTD.dtype)
    return (belongs_BWT @ states_BTD) / belongs_BWT.sum(dim=-1, keepdim=True).clamp_min(1.0)


def relation_loss(ours_BWD: Tensor, theirs_BWD: Tensor, has_word_BW: Tensor, *, heads: int) -> Tensor:
    """KL from the teacher's to the student's relations among words, both split into `heads` relation heads."""
    ours = _relations(ours_BWD, has_word_BW, heads)
    theirs = _relations(theirs_BWD, has_word_BW, heads)
    divergence = (theirs.exp() * (theirs - ours)).masked_fill(~has_word_BW[:, None, None, :], 0.0).sum(dim=-1)
    rows = has_word_BW[:, None, :].expand_as(divergence)
    return divergence[rows].mean()


def _relations(states_BWD: Tensor, has_word_BW: Tensor, heads: int) -> Tensor:
    split = states_BWD.view(*states_BWD.shape[:2], heads, -1).transpose(1, 2)
    products = split @ split.transpose(-1, -2) / split.shape[-1] ** 0.5
    return functional.log_softmax(products.masked_fill(~has_word_BW[:, None, None, :], -1e9), dim=-1)


def _hidden_loss(ours_BWD: Tensor, theirs_BWD: Tensor, has_word_BW: Tensor) -> Tensor:
    return functional.mse_loss(ours_BWD[has_word_BW], theirs_BWD[has_word_BW])


def _has_word(ours: Tokens, theirs: Tokens, num_words: int) -> Tensor:
    """(B, W): which words both tokenizers have a token of."""
    numbers = torch.arange(1, num_words + 1, device=ours.word_BT.device)
    found = [(words[:, None, :] == numbers[None, :, None]).any(dim=-1) for words in (ours.word_BT, theirs.word_BT)]
    return found[0] & found[1]


def _tokenize(tokenizer: Tokenizer, texts: Sequence[str], *, limit: int) -> Tokens:
    encodings = [tokenizer.encode(text) for text in texts]
    width = min(limit, max(len(encoding.ids) for encoding in encodings))
    ids, mask, words = (torch.zeros(len(texts), width, dtype=torch.long) for _ in range(3))
    ids.fill_(PAD)
    for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
        length = min(width, len(encoding.ids))
        ids[row, :length] = torch.tensor(encoding.ids[:length])
        mask[row, :length] = torch.tensor(encoding.attention_mask[:length])
        words[row, :length] = torch.tensor(_words(text, encoding.offsets[:length]))
    return Tokens(ids_BT=ids, mask_BT=mask, word_BT=words)


def _words(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Number each token's word by its last character; a token without characters has none."""
    numbers, current, inside = [], 0, False
    for character in text:
        if character.isspace():
            inside = False
        elif not inside:
            current, inside = current + 1, True
        numbers.append(current)
    return [numbers[min(end, len(numbers)) - 1] if end > begin else 0 for begin, end in offsets]


def _to(tokens: Tokens, device: torch.device) -> Tokens:
    return Tokens(ids_BT=tokens.ids_BT.to(device), mask_BT=tokens.mask_BT.to(device), word_BT=tokens.word_BT.to(device))


def _check_map(pairs: Sequence[tuple[int, int]], ours: Any, theirs: Any) -> None:
    for name, body, numbers in (("student", ours, [s for s, _ in pairs]), ("teacher", theirs, [t for _, t in pairs])):
        available = body.config.num_hidden_layers
        for number in numbers:
            if not 0 <= number < available:
                raise RecipeError(f"layers.map names {name} layer {number}, but it has layers 0 to {available - 1}")


class _Recorder:
    """Keep what the query, key and value projections of some layers give, while the context lasts."""

    def __init__(self, body: Any, layers: Sequence[int]) -> None:
        self.states: dict[int, dict[str, Tensor]] = {layer: {} for layer in layers}
        self.body = body

    def __enter__(self) -> _Recorder:
        self.hooks = []
        for layer, states in self.states.items():
            attention = self.body.encoder.layer[layer].attention.self
            for part in _PARTS:
                hook = getattr(attention, part).register_forward_hook(_keep(states, part))
                self.hooks.append(hook)
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()


def _keep(states: dict[str, Tensor], part: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        states[part] = output

    return hook
