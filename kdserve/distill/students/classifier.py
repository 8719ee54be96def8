"""A student with a head: from token ids to the logits of labels.

Letters: B batch, T tokens, D width of the embedding, K labels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kdserve.distill.students.embedder import Student
from kdserve.distill.teachers.head import Head
from kdserve.modules import HEAD_NAME


class ClassifierStudent(nn.Module):
    """An embedding student and a linear head on its unit vectors."""

    def __init__(self, encoder: Student, head: Head, *, head_only: bool = False) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(not head_only)
        dim, num_labels = head.weight_DK.shape
        self.head = nn.Linear(dim, num_labels)
        with torch.no_grad():
            self.head.weight.copy_(head.weight_DK.T)
            self.head.bias.copy_(head.bias_K)

    @property
    def wraps(self) -> bool:
        """Whether texts stand between [CLS] and [SEP]."""
        return self.encoder.wraps

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the logits (B, K); the head computes in float32."""
        vectors_BD = self.encoder(ids_BT, mask_BT).vectors_BD.float()
        with torch.autocast(vectors_BD.device.type, enabled=False):
            logits: Tensor = self.head(vectors_BD)
        return logits

    def save_head(self, folder: Path) -> None:
        """Write the head beside the student: `weight` (K, D) and `bias` (K,)."""
        weight, bias = (part.detach().cpu().contiguous() for part in (self.head.weight, self.head.bias))
        save_file({"weight": weight, "bias": bias}, folder / HEAD_NAME)
