"""Training data, and a batch of it on its way to the student.

Letters: B batch, T tokens, D width of vectors, K labels, S source sentences, N negatives.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.tokens import TokenStore


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Everything that batches are made of; `vectors` are the teacher's, `row_of` (S,) finds a source's row in them."""

    corpus: Corpus
    tokens: TokenStore
    vectors: npt.NDArray[np.float16]
    row_of: npt.NDArray[np.int64]

    def targets(self, sources: npt.NDArray[np.int64]) -> Tensor:
        """Return the teacher's unit vectors (N, D) of these sources."""
        vectors = torch.from_numpy(self.vectors[self.row_of[sources]].astype(np.float32))
        return torch.nn.functional.normalize(vectors, dim=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A batch of any task: ids and mask (B, T), and what the task needs beside them.

    `target_B` numbers each text's source sentence, `teacher_BD` is what the teacher says of it: its vector (B, D), or
    log-probabilities (B, K). A teacher that runs beside the student says nothing ahead; `partner_B` then numbers each
    text's partner in the batch, where it has one, `place_B2` its language (the source's is the last) and whether it is
    a query. `label_B` are labels of classes. `negatives_ND` and `negative_N` are
    the teacher's vectors and the numbers of sources drawn beside the batch.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    target_B: Tensor
    teacher_BD: Tensor | None = None
    label_B: Tensor | None = None
    partner_B: Tensor | None = None
    place_B2: Tensor | None = None
    source_ids_BT: Tensor | None = None
    source_mask_BT: Tensor | None = None
    negatives_ND: Tensor | None = None
    negative_N: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Move every part."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        moved = {name: value.to(device, non_blocking=True) for name, value in parts.items() if value is not None}
        return replace(self, **moved)


def drop_tokens(mask_BT: Tensor, share: float) -> Tensor:
    """Hide a share of the tokens behind the mask, never the first one of a text."""
    if not share:
        return mask_BT
    kept = (torch.rand(mask_BT.shape, device=mask_BT.device) >= share).to(mask_BT.dtype)
    kept[:, 0] = 1
    return mask_BT * kept
