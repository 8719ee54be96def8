"""How `translation.py` learns: the loss of a batch and its gradients, a teacher's shares of tokens, and the optimiser.

B pairs, T target tokens of a batch, padding among them, K tokens that a teacher holds likely, V vocabulary
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from translation_data import PAD, Batch, Pairs, Ragged, Soft
from translation_search import likeliest

LOGIT_ROWS = 16_384
ENCODER_SHARE = 0.25
SMOOTHING = 0.1
NUM_SOFT = 16


class Optimiser:
    """AdamW over float32 masters of weights in bfloat16; the encoder's rate is a quarter of the decoder's."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.masters = [weight.detach().float().clone().requires_grad_() for weight in self.weights]
        encoder = {id(weight) for weight in model.encoder.parameters()}
        inside = [id(weight) in encoder for weight in self.weights]
        groups = [
            {"params": [m for m, is_in in zip(self.masters, inside, strict=True) if is_in == side], "share": share}
            for side, share in ((True, ENCODER_SHARE), (False, 1.0))
        ]
        on_gpu = self.weights[0].device.type == "cuda"
        self.adam = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01, fused=on_gpu)

    def step(self, rate: float) -> None:
        """Move the weights by their gradients, which are gone then."""
        for group in self.adam.param_groups:
            group["lr"] = rate * group["share"]
        learnt = [(m, w) for m, w in zip(self.masters, self.weights, strict=True) if w.grad is not None]
        for master, _ in learnt:
            if master.grad is None:
                master.grad = torch.empty_like(master)
        torch._foreach_copy_([master.grad for master, _ in learnt], [weight.grad for _, weight in learnt])
        for weight in self.weights:
            weight.grad = None
        nn.utils.clip_grad_norm_([master for master, _ in learnt], 1.0)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_copy_([weight for _, weight in learnt], [master for master, _ in learnt])


def learn(model: nn.Module, source: Ragged, batch: Batch, *, whole: bool, soft_share: float) -> Tensor:
    """Leave the gradients of a batch in the weights and return its loss; logits are made some rows at a time."""
    with torch.set_grad_enabled(whole):
        states = read(model, source, batch)
    hidden, labels = write(model, batch, states)
    num_real, cut = (labels != PAD).sum(), hidden.detach().requires_grad_()
    total = torch.zeros((), device=labels.device)
    at = batch.soft.rows(batch) if batch.soft else labels
    for rows, wanted, places in zip(*(values.split(LOGIT_ROWS) for values in (cut, labels, at)), strict=True):
        ids, shares, smoothing = wanted[:, None], torch.ones_like(wanted[:, None], dtype=torch.float32), SMOOTHING
        if batch.soft:
            soft = soft_share * batch.soft.shares[places].float()
            ids = torch.cat([ids, batch.soft.ids[places].long()], dim=1)
            shares, smoothing = torch.cat([1 - soft.sum(dim=1, keepdim=True), soft], dim=1), 0.0
        logits = model.decoder.cls(rows)
        loss, gradient = cross_entropy(logits.detach(), ids, shares, smoothing=smoothing)
        real = wanted != PAD
        total += torch.where(real, loss, 0).sum() / num_real
        logits.backward((gradient * (real / num_real)[:, None]).to(logits.dtype))
    hidden.backward(cut.grad)
    return total


def cross_entropy(logits_TV: Tensor, ids_TK: Tensor, shares_TK: Tensor, *, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return each row's cross-entropy to shares of some tokens, which add up to one, and its gradient (T, V).

    `smoothing` of the gradient's shares goes to all tokens alike; the loss is without it. By hand this moves half the
    bytes that automatic differentiation would.
    """
    likely = logits_TV.softmax(dim=-1, dtype=torch.float32)
    loss = -(shares_TK * likely.gather(1, ids_TK).clamp_min(1e-30).log()).sum(dim=1)
    return loss, likely.sub_(smoothing / likely.shape[1]).scatter_add_(1, ids_TK, shares_TK * (smoothing - 1))


@torch.no_grad()
def soften(model: nn.Module, pairs: Pairs, *, tokens: int, until: float = float("inf")) -> Soft:
    """Return what a teacher holds likely at every token of every pair's target (Kim & Rush 2016, word level).

    Pairs for which there is no time have no shares: `learn` gives all of a token's weight to the token.
    """
    model.eval()
    soft = Soft.empty(pairs.target.sizes[pairs.target_of], NUM_SOFT, pairs.source.flat.device)
    once = replace(pairs, rate=(pairs.rate > 0).astype(float))
    for batch in once.batches(tokens=tokens, rng=np.random.default_rng(4)):
        if time.perf_counter() > until:
            break
        hidden, labels = write(model, batch, read(model, pairs.source, batch))
        for rows, wanted, at in zip(
            *(values.split(LOGIT_ROWS) for values in (hidden, labels, soft.rows(batch))), strict=True
        ):
            real = wanted != PAD
            logs, ids = likeliest(model.decoder.cls(rows[real]), NUM_SOFT)
            soft.shares[at[real]], soft.ids[at[real]] = logs.exp().half(), ids.short()
    return soft


def read(model: nn.Module, source: Ragged, batch: Batch) -> Tensor:
    """Return the encoder's states of a batch."""
    return model.encoder(input_ids=source.rows(batch.sources, batch.length)).last_hidden_state


def write(model: nn.Module, batch: Batch, states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decoder's states, a row a token, and the token that each should name."""
    labels = batch.target.rows(batch.targets, batch.width)
    begun = pad(labels[:, :-1], (1, 0), value=PAD)
    hidden = model.decoder.bert(input_ids=begun, encoder_hidden_states=states, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1), labels.flatten()
