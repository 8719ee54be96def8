from __future__ import annotations

import pytest

from kdserve.errors import RecipeError
from kdserve.precisions import CHOICES, PRECISIONS, named_precisions


def test_a_name_stands_for_one_precision_and_auto_for_those_that_it_tries() -> None:
    assert all(named_precisions(name) == (precision,) for name, precision in PRECISIONS.items())
    assert [precision.name for precision in named_precisions("auto")] == ["int8", "w8", "fp32"]
    assert [row.name for row in PRECISIONS.values()] == list(PRECISIONS)


def test_an_unknown_name_is_answered_with_all_that_there_are() -> None:
    assert CHOICES == ("int8", "w8", "fp32", "fp16", "int4", "dynamic-int8", "auto")
    with pytest.raises(RecipeError, match=", ".join(CHOICES)):
        named_precisions("int7")


def test_a_way_to_compute_is_known_for_every_precision() -> None:
    pytest.importorskip("onnx", reason="needs the extra export")
    from kdserve.export.graphs.arithmetic import UNCALIBRATED

    assert {row.arithmetic for row in PRECISIONS.values()} == {*UNCALIBRATED, "token-int8"}
