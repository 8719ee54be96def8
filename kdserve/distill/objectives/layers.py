"""Distil the inside of the teacher's body: hidden states, attention maps, relations among queries, keys and values.

Teacher and student cut a sentence into different tokens, so the objectives compare words: the states of a word's
tokens are averaged, words being what spaces separate. They see source sentences, the only ones that the teacher reads.

Letters: B sentences, T tokens, W words, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.vocabulary import PAD
from kdserve.distill.students.bodies import PARTS, projections
from kdserve.distill.students.embedder import TransformerStudent
from kdserve.errors import RecipeError
from kdserve.recipe import LayerRecipe

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class TeacherBody(Protocol):
    """A teacher whose inside can be seen."""

    @property
    def body(self) -> Any:
        """The transformers model inside."""

    @property
    def body_tokenizer(self) -> Tokenizer:
        """Tokenizer of the body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Sentences as one tokenizer cuts them. `word_BT` numbers each token's word from 1; 0 is no word."""

    ids_BT: Tensor
    mask_BT: Tensor
    word_BT: Tensor


class LayerDistillation(nn.Module):
    """Losses over the layer map of a recipe: pairs of (student layer, teacher layer), both from 0.

    Hidden states: mean squared error of word states, through a learned projection where widths differ (TinyBERT, Jiao
    et al. 2020). Attention: KL of the attention maps among words (TinyBERT too, there as a squared error of the maps
    before the softmax), head by head, or of their means over heads where the two have different numbers. Relations:
    KL of the softmaxed Q-Q, K-K and V-V products among words (MiniLMv2, Wang et al. 2021).
    """

    def __init__(
        self,
        recipe: LayerRecipe,
        teacher: TeacherBody,
        student: TransformerStudent,
        tokenizer: Tokenizer,
        corpus: Corpus,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.recipe, self.corpus, self.tokenizer = recipe, corpus, tokenizer
        self.pairs = [(int(ours), int(theirs)) for ours, theirs in recipe.map]
        teacher_body = teacher.body
        self._teacher = [teacher_body]  # in a list: not a submodule, so it is neither trained nor saved
        self._teacher_tokenizer = teacher.body_tokenizer
        require_layers("layers.map", self.pairs, student.body.config, teacher_body.config)
        _check_relation_heads(recipe, student.body, teacher_body)
        if recipe.attention:  # fused kernels do not give their maps
            for body in (student.body, teacher_body):
                body.set_attn_implementation("eager")
        widths = student.body.config.hidden_size, teacher_body.config.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False)

    def forward(self, student: TransformerStudent, target_B: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Return {name: (weight, loss)} for up to `batch_size` different source sentences of the batch."""
        device, recipe = target_B.device, self.recipe
        numbers = torch.unique(target_B)[: recipe.batch_size].tolist()
        texts = self.corpus.sources.select(numbers)
        ours = _to(_tokenize(self.tokenizer, texts, limit=student.max_tokens), device)
        theirs = _to(_tokenize(self._teacher_tokenizer, texts, limit=student.max_tokens), device)
        num_words = int(min(ours.word_BT.max(), theirs.word_BT.max()))
        has_word_BW = _has_word(ours, theirs, num_words)
        teacher, maps = self._teacher[0].to(device), recipe.attention > 0
        with torch.no_grad(), _Recorder(teacher, [layer for _, layer in self.pairs]) as teacher_record:
            taught = teacher(
                input_ids=theirs.ids_BT,
                attention_mask=theirs.mask_BT,
                output_hidden_states=True,
                output_attentions=maps,
            )
        with _Recorder(student.body, [layer for layer, _ in self.pairs]) as student_record:
            encoding = student(ours.ids_BT, ours.mask_BT, attentions=maps)

        def compare(loss: Loss, of_student: Tensor, of_teacher: Tensor) -> Tensor:
            return loss(
                pool_words(of_student.float(), ours.word_BT, num_words),
                pool_words(of_teacher.float(), theirs.word_BT, num_words),
                has_word_BW,
            )

        losses: dict[str, tuple[float, Tensor]] = {}
        if recipe.hidden:
            parts = [
                compare(self._hidden_loss, encoding.hidden_BTW[s + 1], taught.hidden_states[t + 1])
                for s, t in self.pairs
            ]
            losses["hidden"] = recipe.hidden, torch.stack(parts).mean()
        if recipe.attention:
            parts = [
                attention_loss(
                    pool_attention(encoding.attention_BHTT[s].float(), ours.word_BT, has_word_BW),
                    pool_attention(taught.attentions[t].float(), theirs.word_BT, has_word_BW),
                    has_word_BW,
                )
                for s, t in self.pairs
            ]
            losses["attention"] = recipe.attention, torch.stack(parts).mean()
        if recipe.relations:
            loss = partial(relation_loss, heads=recipe.relation_heads)
            parts = [
                compare(loss, student_record.states[s][part], teacher_record.states[t][part])
                for s, t in self.pairs
                for part in PARTS
            ]
            losses["relations"] = recipe.relations, torch.stack(parts).mean()
        return losses

    def _hidden_loss(self, ours_BWD: Tensor, theirs_BWD: Tensor, has_word_BW: Tensor) -> Tensor:
        return functional.mse_loss(self.projection(ours_BWD[has_word_BW]), theirs_BWD[has_word_BW])


def pool_words(states_BTD: Tensor, word_BT: Tensor, num_words: int) -> Tensor:
    """Average the states of each word's tokens: (B, W, D), zero for a word that a sentence does not have."""
    numbers = torch.arange(1, num_words + 1, device=word_BT.device)
    belongs_BWT = (word_BT[:, None, :] == numbers[None, :, None]).to(states_BTD.dtype)
    return (belongs_BWT @ states_BTD) / belongs_BWT.sum(dim=-1, keepdim=True).clamp_min(1.0)


def pool_attention(maps_BHTT: Tensor, word_BT: Tensor, has_word_BW: Tensor) -> Tensor:
    """Turn attention among tokens into attention among words: (B, H, W, W), each row a distribution over the words.

    What a word attends to is the mean over its tokens; what goes to a word, the sum over its tokens. What goes to
    [CLS], [SEP] and words that only one tokenizer sees is left out.
    """
    numbers = torch.arange(1, has_word_BW.shape[1] + 1, device=word_BT.device)
    belongs_BWT = (word_BT[:, None, :] == numbers[None, :, None]).to(maps_BHTT.dtype) * has_word_BW[..., None]
    means_BWT = belongs_BWT / belongs_BWT.sum(dim=-1, keepdim=True).clamp_min(1.0)
    words_BHWW = means_BWT[:, None] @ maps_BHTT @ belongs_BWT[:, None].transpose(-1, -2)
    return words_BHWW / words_BHWW.sum(dim=-1, keepdim=True).clamp_min(1e-9)


def attention_loss(ours_BHWW: Tensor, theirs_BHWW: Tensor, has_word_BW: Tensor) -> Tensor:
    """KL from the teacher's to the student's attention among words, mean over heads and words."""
    if ours_BHWW.shape[1] != theirs_BHWW.shape[1]:
        ours_BHWW, theirs_BHWW = ours_BHWW.mean(dim=1, keepdim=True), theirs_BHWW.mean(dim=1, keepdim=True)
    ours, theirs = ours_BHWW.clamp_min(1e-9), theirs_BHWW.clamp_min(1e-9)
    divergence_BHW = (theirs_BHWW * (theirs.log() - ours.log())).sum(dim=-1)
    return divergence_BHW[has_word_BW[:, None, :].expand_as(divergence_BHW)].mean()


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


def require_layers(key: str, pairs: Sequence[tuple[int, int]], ours: Any, theirs: Any) -> None:
    """Refuse a map, the recipe's `key`, that names a layer which a body of these configurations does not have."""
    for name, config, numbers in zip(("student", "teacher"), (ours, theirs), zip(*pairs, strict=True), strict=False):
        available = config.num_hidden_layers
        if wrong := [number for number in numbers if not 0 <= number < available]:
            raise RecipeError(f"{key} names {name} layer {wrong[0]}, but it has layers 0 to {available - 1}")


def _check_relation_heads(recipe: LayerRecipe, *bodies: Any) -> None:
    for body in bodies if recipe.relations else ():
        width = body.config.hidden_size
        if width % recipe.relation_heads:
            raise RecipeError(
                f"layers.relation_heads is {recipe.relation_heads}, which does not divide width {width}; lower it"
            )


class _Recorder:
    """Keep what the query, key and value projections of some layers give, while the context lasts."""

    def __init__(self, body: Any, layers: Sequence[int]) -> None:
        self.states: dict[int, dict[str, Tensor]] = {layer: {} for layer in layers}
        self.body = body

    def __enter__(self) -> _Recorder:
        self.hooks = []
        for layer, states in self.states.items():
            for part, projection in projections(self.body, layer).items():
                self.hooks.append(projection.register_forward_hook(_keep(states, part)))
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self.hooks:
            hook.remove()


def _keep(states: dict[str, Tensor], part: str) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        states[part] = output

    return hook
