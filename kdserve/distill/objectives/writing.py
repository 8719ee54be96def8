"""What a student that writes learns of its teacher: its likeliest tokens, and the inside of its encoder.

Letters: N tokens, V vocabulary, K tokens kept of it, B batch, T tokens read, H heads, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdserve.distill.data.sequences import WritingBatch
from kdserve.distill.objectives.layers import attention_loss, require_layers
from kdserve.distill.teachers.encoder_decoder import EncoderDecoder
from kdserve.recipe import WritingObjectiveRecipe


def token_loss(logits_NV: Tensor, top_NK: Tensor, score_NK: Tensor, *, temperature: float) -> Tensor:
    """T² · KL from the teacher's K likeliest tokens, as a distribution of their own, to the student.

    Hinton et al. 2015, arXiv:1503.02531. `score_NK` are log probabilities at temperature 1.
    """
    taught = functional.log_softmax(score_NK.float() / temperature, dim=-1)
    ours = functional.log_softmax(logits_NV / temperature, dim=-1).gather(-1, top_NK)
    return temperature**2 * (taught.exp() * (taught - ours)).sum(dim=-1).mean()


class InsideDistillation(nn.Module):
    """Losses over pairs of encoder layers, where student and teacher read the same tokens; the teacher runs beside.

    Hidden states: mean squared error, through a learned projection where widths differ. Attention: KL of the maps, head
    by head, or of their means where the two have different numbers of heads (TinyBERT, Jiao et al. 2020).
    """

    def __init__(
        self, aims: WritingObjectiveRecipe, teacher: EncoderDecoder, student: EncoderDecoder, *, seed: int
    ) -> None:
        super().__init__()
        self.aims, self.pairs = aims, [(int(ours), int(theirs)) for ours, theirs in aims.map]
        self._teacher = [teacher]  # in a list: not a submodule, so it is neither trained nor saved
        ours, theirs = (_encoder_config(one.model) for one in (student, teacher))
        require_layers("objective.map", self.pairs, ours, theirs)
        if aims.attention:  # fused kernels do not give their maps
            for model in (student.model, teacher.model):
                model.set_attn_implementation("eager")
        widths = ours.hidden_size, theirs.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False)

    @property
    def kept(self) -> dict[str, bool]:
        """What the student's output has to hold."""
        return {"output_hidden_states": self.aims.hidden > 0, "output_attentions": self.aims.attention > 0}

    def forward(self, output: Any, batch: WritingBatch) -> dict[str, tuple[float, Tensor]]:
        """Return {name: (weight, loss)}."""
        teacher = self._teacher[0].to(batch.ids_BT.device)
        with torch.no_grad():
            taught = teacher(batch.ids_BT, batch.mask_BT, batch.written_BL, **self.kept)
        real_BT, losses = batch.mask_BT.bool(), {}
        if self.aims.hidden:
            ours, theirs = output.encoder_hidden_states, taught.encoder_hidden_states
            parts = [
                functional.mse_loss(self.projection(ours[s + 1][real_BT].float()), theirs[t + 1][real_BT].float())
                for s, t in self.pairs
            ]
            losses["hidden"] = self.aims.hidden, torch.stack(parts).mean()
        if self.aims.attention:
            ours, theirs = output.encoder_attentions, taught.encoder_attentions
            parts = [attention_loss(ours[s].float(), theirs[t].float(), real_BT) for s, t in self.pairs]
            losses["attention"] = self.aims.attention, torch.stack(parts).mean()
        return losses


def _encoder_config(model: Any) -> Any:
    return model.config.encoder if model.config.model_type == "encoder-decoder" else model.config
