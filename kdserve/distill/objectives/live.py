"""The teacher beside its student: both read the same tokens, so any text in any language is its own lesson.

Letters: B batch, T tokens, W width of the body, D width of the vectors.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdserve.distill.students.bodies import take_body, teacher_dense
from kdserve.distill.students.embedder import Encoding, TransformerStudent
from kdserve.distill.teachers.embedder import Teacher
from kdserve.errors import RecipeError
from kdserve.recipe import LayerRecipe, StudentRecipe, TargetsRecipe


class LiveTeacher(nn.Module):
    """All layers of the teacher over the table that the student starts from; it is never trained."""

    def __init__(
        self,
        teacher: Teacher,
        table_VW: Tensor,
        *,
        student: StudentRecipe,
        targets: TargetsRecipe,
        states: LayerRecipe,
    ) -> None:
        super().__init__()
        self.mix, self.states_weight, self.pairs = targets, states.states, states.map
        layers = tuple(range(teacher.body.config.num_hidden_layers))
        settings = replace(student, layers=layers, table_bits=0, table_rank=0)
        body = take_body(teacher, settings)
        self.encoder = TransformerStudent(table_VW, settings, body=body, dense=teacher_dense(teacher))
        self.encoder.eval().requires_grad_(False)
        self.centres_LRD: Tensor
        self.register_buffer("centres_LRD", torch.zeros(1, 2, teacher.dim))
        for ours, theirs in self.pairs if states.states else ():
            if not (0 <= ours < len(student.layers) and 0 <= theirs < len(layers)):
                raise RecipeError(f"layers.map names [{ours}, {theirs}], but there is no such layer; count from 0")

    @torch.no_grad()
    def teach(self, ids_BT: Tensor, mask_BT: Tensor) -> Encoding:
        """Return the teacher's vectors and hidden states."""
        encoding: Encoding = self.encoder(ids_BT, mask_BT)
        return encoding

    def targets(self, taught_BD: Tensor, partner_B: Tensor | None, place_B2: Tensor | None = None) -> Tensor:
        """Return what each text is to be embedded as: (B, D) of unit length; its language's centre is taken off."""
        if self.mix.centred and place_B2 is not None:
            taught_BD = functional.normalize(taught_BD - self.centres_LRD[place_B2[:, 0], place_B2[:, 1]], dim=-1)
        mixed_BD = self.mix.own * taught_BD
        if partner_B is not None:
            mixed_BD = mixed_BD + self.mix.partner * taught_BD[partner_B]
        return functional.normalize(mixed_BD, dim=-1)

    def losses(self, ours: Encoding, taught: Encoding, mask_BT: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Return {"states": (weight, loss)}, or nothing where the recipe wants none."""
        if not self.states_weight:
            return {}
        last = len(taught.hidden_BTW) - 2 if self.mix.centred else None  # its vectors are led elsewhere
        parts = [
            state_loss(ours.hidden_BTW[student + 1], taught.hidden_BTW[teacher + 1], mask_BT)
            for student, teacher in self.pairs
            if teacher != last
        ]
        return {"states": (self.states_weight, torch.stack(parts).mean())}


def state_loss(ours_BTW: Tensor, theirs_BTW: Tensor, mask_BT: Tensor) -> Tensor:
    """Squared error of the states of real tokens, as a share of the variance of the teacher's among them."""
    real_BT1 = mask_BT[..., None].float()
    share_BT1 = real_BT1 / real_BT1.sum()  # not picked out, as a GPU would have to wait for their number
    ours, theirs = ours_BTW.float(), theirs_BTW.float()
    mean_W = (share_BT1 * theirs).sum(dim=(0, 1))
    spread = (share_BT1 * (theirs - mean_W).square()).sum()
    return (share_BT1 * (ours - theirs).square()).sum() / spread.clamp_min(1e-12)
