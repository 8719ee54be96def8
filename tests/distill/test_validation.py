from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdserve.distill import validation
from kdserve.distill.validation import find_translations


@pytest.mark.parametrize("batch", [256, 3])
def test_translations_are_looked_for_in_one_pool(monkeypatch: pytest.MonkeyPatch, batch: int):
    monkeypatch.setattr(validation, "_BATCH", batch)
    generator = torch.Generator().manual_seed(1)
    own = functional.normalize(torch.randn(9, 6, generator=generator), dim=-1)
    source = torch.arange(9).repeat_interleave(3)
    foreign = functional.normalize(own[source] + 0.6 * torch.randn(27, 6, generator=generator), dim=-1)
    cosines = foreign @ own.T
    expected = []
    for pair, wanted in enumerate(source.tolist()):
        others = source != wanted  # the source's translations into other languages are no wrong answers
        to_source = int(cosines[pair].argmax()) == wanted
        to_translation = bool((cosines[others, wanted] < cosines[pair, wanted]).all())
        expected.append((to_source + to_translation) / 2)
    assert find_translations(foreign, own, source).tolist() == expected
    assert {0.5, 1.0} <= set(expected)


def test_a_student_that_is_its_teacher_finds_all_and_one_of_nan_nothing():
    own = functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert find_translations(own, own, torch.arange(5)).tolist() == [1.0] * 5
    assert find_translations(own * torch.nan, own, torch.arange(5)).tolist() == [0.0] * 5
