"""Beam search over many sources at once, with keys and values kept; sources whose beams have all ended leave.

N sources, K beams, R = N · K rows, S source tokens, V vocabulary, L output tokens
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

PAD, END = 0, 1
MOST_GOING = 0.75
ROOM = 8  # steps that keys and values have room for, at first and more each time


@dataclass
class Found:
    """Tokens (N, K, L) behind the start, padded, best first; lengths with the end, whether it was reached: (N, K)."""

    tokens: Tensor
    lengths: Tensor
    ended: Tensor

    def best(self) -> Tensor:
        return self.tokens[:, 0]

    def nearest(self, references: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return of each source the output that shares most single tokens and pairs of them with its reference.

        Tokens (N, L), lengths (N,), and whether it ended (N,).
        """
        real, other = self.tokens != PAD, references != PAD
        same = (self.tokens[..., None] == references[:, None, None]) & real[..., None] & other[:, None, None]
        pairs = same[..., :-1, :-1] & same[..., 1:, 1:]
        score = sum(
            (matches.any(-1).sum(-1) + matches.any(-2).sum(-1)) / (self.lengths + other.sum(-1, keepdim=True))
            for matches in (same, pairs)
        )
        chosen = score.masked_fill(~self.ended, -1).argmax(dim=1)
        every = torch.arange(len(chosen), device=chosen.device)
        return self.tokens[every, chosen], self.lengths[every, chosen], self.ended[every, chosen]


class _Steps:
    """The decoder, one token at a time."""

    def __init__(self, decoder: nn.Module, states: Tensor, mask_NS: Tensor | None, beam: int, most: int) -> None:
        self.decoder, self.beam, self.count = decoder, beam, len(states)
        self.mask = None if mask_NS is None else mask_NS[:, None, None]
        self.layers, bert = decoder.bert.encoder.layer, decoder.bert
        self.heads, rows = bert.config.num_attention_heads, len(states) * beam
        self.crossed = [
            [self._split(part(states)) for part in (layer.crossattention.self.key, layer.crossattention.self.value)]
            for layer in self.layers
        ]
        shape = (rows, len(self.layers), 2, self.heads, min(most, ROOM), states.shape[-1] // self.heads)
        self.kept = states.new_zeros(shape)  # rows first: what moves lies together

    def __call__(self, tokens_R: Tensor, step: int) -> Tensor:
        """Return logits (R, V)."""
        position = torch.full((1, 1), step, device=tokens_R.device)
        if step == self.kept.shape[-2]:
            self.kept = torch.cat([self.kept, torch.zeros_like(self.kept[..., :ROOM, :])], dim=-2)
        hidden = self.decoder.bert.embeddings(input_ids=tokens_R[:, None], position_ids=position)
        for number, layer in enumerate(self.layers):
            own, kept = layer.attention.self, self.kept[:, number]
            kept[:, 0, :, step], kept[:, 1, :, step] = (
                self._split(part(hidden))[:, :, 0] for part in (own.key, own.value)
            )
            query, so_far = self._split(own.query(hidden)), kept[..., : step + 1, :]
            seen = _attend(query, so_far[:, 0], so_far[:, 1])
            hidden = layer.attention.output(seen.transpose(1, 2).flatten(2), hidden)
            query = self._split(layer.crossattention.self.query(hidden).view(self.count, self.beam, -1))
            seen = _attend(query, *self.crossed[number], self.mask)
            hidden = layer.crossattention.output(seen.transpose(1, 2).reshape(hidden.shape), hidden)
            hidden = layer.output(layer.intermediate(hidden), hidden)
        return self.decoder.cls(hidden)[:, 0]

    def reorder(self, rows_R: Tensor) -> None:
        self.kept = self.kept.index_select(0, rows_R)

    def keep(self, sources: Tensor) -> None:
        """Go on with some of the sources alone."""
        self.count, self.mask = len(sources), None if self.mask is None else self.mask[sources]
        self.crossed = [[values[sources] for values in layer] for layer in self.crossed]
        beams = torch.arange(self.beam, device=sources.device)
        self.reorder((sources[:, None] * self.beam + beams).flatten())

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of a few queries to a few keys, element by element: products of matrices are made for many."""
    scores = torch.stack([(row[..., None, :] * keys).sum(dim=-1) for row in query.unbind(dim=-2)], dim=-2)
    scores = scores * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    shares = scores.softmax(dim=-1)
    return torch.stack([(row[..., None] * values).sum(dim=-2) for row in shares.unbind(dim=-2)], dim=-2)


@torch.inference_mode()
def search(model: nn.Module, source_NS: Tensor, *, beam: int, most: int, mask_NS: Tensor | None = None) -> Found:
    """Find outputs of at most `most` tokens by mean log probability; ended ones keep their place among the beams."""
    states = model.encoder(input_ids=source_NS, attention_mask=mask_NS).last_hidden_state
    count, device = len(source_NS), source_NS.device
    steps = _Steps(model.decoder, states, mask_NS, beam, most)
    tokens = torch.full((count, beam, most + 1), PAD, device=device)
    sums = torch.full((count, beam), -torch.inf, device=device)
    sums[:, 0] = 0.0
    ended = torch.zeros((count, beam), dtype=torch.bool, device=device)
    lengths = torch.zeros((count, beam), device=device)
    found = Found(tokens[:, :, 1:].clone(), lengths.long(), ended.clone())
    number = torch.arange(count, device=device)
    for step in range(most):
        logits_RV = steps(tokens[:, :, step].flatten(), step)
        parent, token, sums, lengths = _go_on(logits_RV, sums, lengths, ended)
        tokens = tokens.gather(1, parent[..., None].expand_as(tokens))
        tokens[:, :, step + 1] = token
        ended = ended.gather(1, parent) | (token == END)
        if beam > 1:
            first = torch.arange(count, device=device)[:, None] * beam
            steps.reorder((first + parent).flatten())
        if step % 4 == 3 or step == most - 1:
            going = (~ended.all(dim=1)).nonzero()[:, 0]
            if len(going) <= MOST_GOING * count or step == most - 1:
                found.tokens[number], found.lengths[number] = tokens[:, :, 1:], lengths.long()
                found.ended[number] = ended
                if not len(going):
                    break
                tokens, sums, lengths, ended, number = (
                    values[going] for values in (tokens, sums, lengths, ended, number)
                )
                steps.keep(going)
                count = len(going)
    return found


def _go_on(logits_RV: Tensor, sums_NK: Tensor, lengths_NK: Tensor, ended_NK: Tensor) -> tuple[Tensor, ...]:
    """Return the beam that each of the best goes on from, its next token, its sum and its length: (N, K) each.

    An ended beam goes on in one way, with padding, at no cost.
    """
    beam = sums_NK.shape[1]
    top_NKK, ids_NKK = (values.view(*sums_NK.shape, beam) for values in likeliest(logits_RV, beam))
    only = torch.full((beam,), -torch.inf, device=top_NKK.device)
    only[0] = 0.0
    top_NKK, ids_NKK = torch.where(ended_NK[..., None], only, top_NKK), ids_NKK.masked_fill(ended_NK[..., None], PAD)
    totals_NKK = sums_NK[..., None] + top_NKK
    longer_NKK = (lengths_NK + ~ended_NK)[..., None].expand_as(totals_NKK)
    chosen = (totals_NKK / longer_NKK).flatten(1).topk(beam, dim=-1).indices
    values = (values.flatten(1).gather(1, chosen) for values in (ids_NKK, totals_NKK, longer_NKK))
    return chosen // beam, *values


def likeliest(logits_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the log probabilities and numbers of the likeliest tokens but padding: (R, count) each.

    The likeliest lie in the groups with the likeliest maxima: choosing among these is several times as quick.
    """
    logs = log_softmax(logits_RV, dim=-1, dtype=torch.float32)
    logs[:, PAD] = -torch.inf
    size = math.gcd(logs.shape[1], 128)
    grouped = logs.unflatten(1, (-1, size))
    groups = grouped.amax(dim=-1).topk(count, dim=-1).indices
    inside = grouped.gather(1, groups[..., None].expand(-1, -1, size))
    top, at = inside.flatten(1).topk(count, dim=-1)
    return top, groups.gather(1, at // size) * size + at % size
