from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdserve.runtime.batches import canonical_length, make_batches, pack_ids


def test_canonical_lengths_climb_a_fixed_ladder() -> None:
    lengths = [canonical_length(n) for n in (0, 1, 4, 5, 32, 33, 64, 65, 128, 129, 512, 513)]
    assert lengths == [4, 4, 4, 8, 32, 40, 64, 80, 128, 160, 512, 576]


@given(st.integers(1, 2000))
def test_a_canonical_length_holds_its_text_and_wastes_little(num_tokens: int) -> None:
    length = canonical_length(num_tokens)
    assert num_tokens <= length == canonical_length(length)
    assert length - num_tokens < max(4, num_tokens / 4)


@given(st.lists(st.integers(1, 90), max_size=60))
def test_batches_hold_every_text_once_and_keep_the_budget(lengths: list[int]) -> None:
    ids = [[7] * length for length in lengths]
    seen: list[int] = []
    for rows, batch in make_batches(pack_ids(ids), max_batch_tokens=128, pad_id=9):
        seen += rows
        assert batch.ids.shape[0] == 1 or batch.ids.size <= 128
        assert {canonical_length(lengths[row]) for row in rows} == {batch.ids.shape[1]}
        assert batch.mask.sum(axis=1).tolist() == [lengths[row] for row in rows]
        assert np.all(batch.ids[batch.mask == 0] == 9)
    assert sorted(seen) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 90), max_size=60), st.integers(0, 200))
def test_spare_tokens_bound_the_padding_that_each_step_to_a_longer_text_takes(lengths: list[int], spare: int) -> None:
    ids = [[7] * length for length in lengths]
    seen: list[int] = []
    for rows, batch in make_batches(pack_ids(ids), max_batch_tokens=10_000, pad_id=9, spare_tokens=spare):
        seen += rows
        widths = [canonical_length(lengths[row]) for row in rows]
        assert max(widths) == batch.ids.shape[1]
        steps = sorted(set(widths))
        for before, after in pairwise(steps):
            assert sum(width <= before for width in widths) * (after - before) <= spare
        assert batch.mask.sum(axis=1).tolist() == [lengths[row] for row in rows]
    assert sorted(seen) == list(range(len(lengths)))
