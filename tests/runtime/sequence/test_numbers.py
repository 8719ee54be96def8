"""The numbers of a source come through, and no others are written in their place."""

from __future__ import annotations

import numpy as np
import pytest

from kdserve.runtime.sequence.numbers import Digits, Kept, numbers_of
from kdserve.runtime.sequence.rules import Candidates, bounds
from kdserve.runtime.sequence.settings import Generation

WORDS = ["at", "▁at", ".", ":", "▁.", "10", *(f"▁{digit}" for digit in range(10)), *map(str, range(10))]
TOKENS = {word: number for number, word in enumerate(WORDS)}


def decode(rows: list[list[int]]) -> list[str]:
    return ["".join(WORDS[number] for number in row).replace("▁", " ").strip() for row in rows]


def ids(*words: str) -> list[int]:
    return [TOKENS[word] for word in words]


@pytest.fixture
def digits() -> Digits:
    return Digits.of(TOKENS, decode)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("nothing", ()),
        ("um 14:30 Uhr", ("1430", "14", "30")),
        ("1.000,50 € or 3", ("100050", "1", "000", "50", "3")),
        ("٣٤٫٥ and १२", ("345", "34", "5", "12")),
        ("1 700 or 250\u00a0000, 5 2014", ("1700", "1", "700", "250000", "250", "000", "5", "2014")),
        ("x³, ½ and 5.", ("3", "5")),
    ],
)
def test_numbers_of_a_text_are_its_digits_whole_and_in_parts(text: str, numbers: tuple[str, ...]) -> None:
    assert numbers_of(text) == numbers


def test_digits_are_those_tokens_that_write_some(digits: Digits) -> None:
    assert digits.written.keys() == set(ids(*WORDS[5:]))
    assert digits.begins == set(ids(*WORDS[6:16]))
    assert digits.joints == set(ids(".", ":"))


@pytest.mark.parametrize(
    ("output", "allowed", "must"),
    [
        ((), {"▁1", "▁3", "1", "3", "10"}, set()),
        (("▁at",), {"▁1", "▁3", "1", "3", "10"}, set()),
        (("▁at", "▁1"), {"▁1", "▁3", "0"}, {"0"}),
        (("▁1", "0"), {"▁1", "▁3", "3"}, set()),
        (("▁1", "0", ":"), {"▁1", "▁3", "1", "3", "10"}, set()),
        (("▁1", "0", ":", "3"), {"▁1", "▁3", "0"}, {"0"}),
        (("▁1", "0", ":", "3", "0"), {"▁1", "▁3"}, set()),
        (("▁3", "0", "▁."), {"▁1", "▁3", "1", "3", "10"}, set()),
    ],
)
def test_only_the_numbers_of_the_source_are_begun_and_brought_to_their_end(
    digits: Digits, output: tuple[str, ...], allowed: set[str], must: set[str]
) -> None:
    wrong, needed = digits.rule(ids(*output), numbers_of("10:30"))
    assert {WORDS[number] for number in digits.written if number not in wrong} == allowed
    assert {WORDS[number] for number in needed} == must


def test_a_source_without_numbers_binds_nothing(digits: Digits) -> None:
    assert digits.rule(ids("▁1"), numbers_of("three")) == (frozenset(), ())


def test_what_must_come_takes_the_best_candidates_place_where_it_is_none() -> None:
    digits = Digits.of(TOKENS, decode)
    kept = Kept(digits, [numbers_of("at 17"), (), numbers_of("at 17")]).of([0, 1, 2])
    written = np.array([[0, *ids("▁1")]] * 3)
    found = bounds(written, Generation(start_id=0, end_ids=(0,)), kept)
    candidates = Candidates(
        ids=np.array([ids("8", "▁at"), ids("8", "▁at"), ids("8", "7")]), scores=np.array([[-1.0, -2.0]] * 3, np.float32)
    )
    chosen = found.keep(candidates)
    assert chosen.ids[:, 0].tolist() == ids("7", "8", "7")
    assert chosen.scores[:, 0].tolist() == [-1.0, -1.0, -2.0]


def test_a_token_that_is_no_digit_ends_its_run_where_that_is_as_long_as_it_may_be() -> None:
    digits = Digits.of(TOKENS, decode)
    rules = Generation(start_id=0, end_ids=(0,), max_run=3)
    kept = Kept(digits, [()] * 4)
    rows = [ids("▁at", "▁at", "▁at"), ids("▁1", "▁at", "▁at"), ids("0", "0", "0"), ids("▁at", "▁at", "▁1")]
    found = bounds(np.array([[0, *row] for row in rows]), rules, kept)
    assert found.never == [frozenset(ids("▁at")), frozenset(), frozenset(), frozenset()]
    assert bounds(np.array([[0, *rows[0][:2]]]), rules, kept.of([0])).never == [frozenset()]
