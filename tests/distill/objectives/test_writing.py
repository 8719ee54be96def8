from __future__ import annotations

import torch
from torch.nn.functional import kl_div, log_softmax

from kdserve.distill.objectives.writing import token_loss


def test_soft_labels_of_the_whole_vocabulary_are_hintons_loss():
    torch.manual_seed(0)
    ours, theirs = torch.randn(6, 12), torch.randn(6, 12)
    scores, tokens = log_softmax(theirs, dim=-1).topk(12, dim=-1)
    found = token_loss(ours, tokens, scores, temperature=2.0)
    wanted = 4 * kl_div(log_softmax(ours / 2, -1), log_softmax(theirs / 2, -1), log_target=True, reduction="batchmean")
    assert torch.allclose(found, wanted, atol=1e-5)


def test_it_is_least_where_the_student_says_the_same():
    theirs = torch.tensor([[2.0, 1.0, 0.0, -30.0, -30.0]])
    scores, tokens = log_softmax(theirs, dim=-1).topk(3, dim=-1)
    same = token_loss(theirs, tokens, scores, temperature=1.0)
    assert same.abs() < 1e-4
    assert token_loss(theirs.flip(-1), tokens, scores, temperature=1.0) > 1.0
