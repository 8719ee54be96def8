"""How `translation.py` learns: the loss of a batch and its gradients, a teacher's shares of tokens, and the optimiser.

B pairs, T target tokens of a batch, padding among them, K tokens that a teacher holds likely, V vocabulary
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from translation_data import PAD, Batch, Pairs, Ragged, Soft
from translation_search import likeliest

LOGIT_ROWS = 16_384
ENCODER_SHARE = 0.25
SMOOTHING = 0.1
NUM_SOFT = 16
PLAIN_STEPS = 2  # of a shape, before what it launches is recorded


def choose_attention(device: torch.device, *, rows: int = 16_384, heads: int = 12, size: int = 32) -> dict[str, float]:
    """Leave one way of attention switched on, the quickest at short sentences; returns the milliseconds of each.

    Flash attention works on 128 tokens at a time, whatever of them there is: half of a step's time at sentences of
    twelve.
    """
    ways = {
        "flash": torch.backends.cuda.enable_flash_sdp,
        "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
        "math": torch.backends.cuda.enable_math_sdp,
    }
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    took_ms = {}
    for way in ways:
        for name, switch in ways.items():
            switch(name == way)
        for _ in range(2):
            began = time.perf_counter()
            for length in (8, 12, 16, 24, 40):
                shape = (rows // length, length, heads, size)
                parts = torch.randn(3, *shape, device=device, dtype=torch.bfloat16, requires_grad=True)
                seen = scaled_dot_product_attention(*parts.transpose(2, 3).unbind(), is_causal=True)
                seen.backward(torch.ones_like(seen))
            torch.cuda.synchronize()
            took_ms[way] = 1000 * (time.perf_counter() - began)  # the second round's, in the end
    quickest = min(took_ms, key=took_ms.get)
    for name, switch in ways.items():
        switch(name in (quickest, "math"))  # which is there for the CPU, and never chosen where another is allowed
    return took_ms


class Optimiser:
    """AdamW over float32 masters of weights in bfloat16; the encoder's rate is a quarter of the decoder's.

    Weights and gradients of a side lie in one row each, so that a step is a handful of launches and nothing moves.
    """

    def __init__(self, model: nn.Module) -> None:
        encoder = {id(weight) for weight in model.encoder.parameters()}
        learnt = [weight for weight in model.parameters() if weight.requires_grad]
        self.sides = [_flat([weight for weight in learnt if (id(weight) in encoder) == side]) for side in (True, False)]
        self.masters = [flat.float().requires_grad_() for flat, _ in self.sides]
        groups = [{"params": [m], "share": s} for m, s in zip(self.masters, (ENCODER_SHARE, 1.0), strict=True)]
        on_gpu = self.masters[0].device.type == "cuda"
        self.adam = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01, fused=on_gpu)

    def step(self, rate: float, *, whole: bool) -> None:
        """Move the weights, the encoder's where `whole`, by their gradients, which are zero then."""
        for group, master, (_, gradient) in zip(self.adam.param_groups, self.masters, self.sides, strict=True):
            group["lr"] = rate * group["share"]
            master.grad = gradient.float() if whole or group["share"] == 1.0 else None
        nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.adam.step()
        with torch.no_grad():
            for master, (flat, gradient) in zip(self.masters, self.sides, strict=True):
                flat.copy_(master)
                gradient.zero_()


@torch.no_grad()
def _flat(weights: Sequence[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Lay weights into one row and give them gradients in another; returns both rows."""
    flat = torch.cat([weight.flatten() for weight in weights])
    gradient, start = torch.zeros_like(flat), 0
    for weight in weights:
        end = start + weight.numel()
        weight.data, weight.grad = flat[start:end].view_as(weight), gradient[start:end].view_as(weight)
        start = end
    return flat, gradient


class Learner:
    """Leaves the gradients of batches in the weights and adds up their losses.

    On a GPU half of a step's time goes into launching it. What a batch of one shape launches is recorded when that
    shape comes up again, and played back from then on (CUDA graphs).
    """

    def __init__(self, model: nn.Module, source: Ragged, *, soft_share: float, records: bool) -> None:
        self.model, self.source, self.soft_share, self.records = model, source, soft_share, records
        self.loss = torch.zeros((), device=source.flat.device)
        self.met: Counter[tuple[object, ...]] = Counter()
        self.recorded: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Batch]] = {}
        self.pool = torch.cuda.graph_pool_handle() if records else None

    def __call__(self, batch: Batch, *, whole: bool) -> None:
        shape = (len(batch.sources), batch.length, batch.width, whole)
        self.met[shape] += 1
        if not self.records or self.met[shape] <= PLAIN_STEPS:
            self.loss += learn(self.model, self.source, batch, whole=whole, soft_share=self.soft_share)
            return
        if shape not in self.recorded:
            self.recorded[shape] = self._record(batch, whole=whole)
        graph, still = self.recorded[shape]
        still.sources.copy_(batch.sources)
        still.targets.copy_(batch.targets)
        graph.replay()

    def _record(self, batch: Batch, *, whole: bool) -> tuple[torch.cuda.CUDAGraph, Batch]:
        still = replace(batch, sources=batch.sources.clone(), targets=batch.targets.clone())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=torch.cuda.current_stream()):
            self.loss += learn(self.model, self.source, still, whole=whole, soft_share=self.soft_share)
        return graph, still


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
