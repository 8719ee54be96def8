"""No number but those of the source: which tokens would begin or go on with another one.

A source without digits binds nothing, as its words may stand for numbers: "drei" for 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdserve.digits import fold_digits

_NUMBER = re.compile(r"\d+(?:[.,:٫٬]\d+|[ \u00a0\u202f]\d{3}(?!\d))*")
_JOINTS = (".", ",", ":")
Numbers = tuple[str, ...]
"""The digits of each number of a text, and of its parts where it has several: of 14:30 they are 1430, 14 and 30."""


def numbers_of(text: str) -> Numbers:
    """Return a text's numbers, in any script's digits; thousands may stand apart: 1 700."""
    found: dict[str, None] = {}
    for number in _NUMBER.findall(fold_digits(text)):
        parts = re.split(r"\D", number)
        found |= dict.fromkeys(["".join(parts), *parts])
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Digits:
    """What the tokens of a vocabulary write of numbers."""

    written: Mapping[int, str]
    """The digits of each token that has some."""
    begins: frozenset[int]
    """Those of them that begin a number, behind a space."""
    joints: frozenset[int]
    """Tokens that stand between the digits of a number, like its decimal point."""

    @classmethod
    def of(cls, vocabulary: Mapping[str, int], decode: Callable[[list[list[int]]], list[str]]) -> Digits:
        """Find them among the tokens, by what each adds to a text."""
        before = next(([number] for token, number in vocabulary.items() if token.isalpha()), [])
        ids = [number for token, number in vocabulary.items() if token in _JOINTS or any(map(str.isdigit, token))]
        text, *longer = decode([before, *([*before, number] for number in ids)])
        added = {number: fold_digits(whole.removeprefix(text)) for number, whole in zip(ids, longer, strict=True)}
        written = {number: digits for number, one in added.items() if (digits := "".join(filter(str.isdecimal, one)))}
        return cls(
            written,
            frozenset(number for number in written if not added[number][0].isdecimal()),
            frozenset(number for number, one in added.items() if one in _JOINTS),
        )

    def rule(self, output: Sequence[int], numbers: Numbers) -> tuple[frozenset[int], tuple[int, ...]]:
        """Say for an output which tokens may not come next, and of which one must, if any.

        One must where a number has begun and is no whole one yet; the first of these goes on with the first number of
        the source that begins so.
        """
        if not numbers:
            return frozenset(), ()
        under_way, is_open = self._under_way(output), bool(output) and output[-1] in self.written
        behind = under_way if is_open else [*under_way, ""]
        places = {
            token: _first(numbers, [""] if token in self.begins else behind, digits)
            for token, digits in self.written.items()
        }
        fitting = {token: place for token, place in places.items() if place is not None}
        wrong = frozenset(self.written.keys() - fitting.keys())
        if not is_open or any(own in numbers for own in under_way):
            return wrong, ()
        return wrong, tuple(sorted(fitting.keys() - self.begins, key=fitting.__getitem__))

    def _under_way(self, output: Sequence[int]) -> list[str]:
        """The digits that an output ends in, as one number and, behind each joint, as a number of their own."""
        found, digits = [], ""
        for token in reversed(output):
            if token in self.written:
                digits = self.written[token] + digits
                if token in self.begins:
                    break
            elif token not in self.joints:
                break
            elif digits:
                found.append(digits)
        return [*found, digits] if digits else found


@dataclass(frozen=True, slots=True)
class Kept:
    """The numbers of each source, to be kept, and the tokens that write them."""

    digits: Digits
    numbers: Sequence[Numbers]

    def of(self, sources: Iterable[int]) -> Kept:
        """Of these sources alone, in this order."""
        return Kept(self.digits, [self.numbers[source] for source in sources])


def _first(numbers: Numbers, behind: Sequence[str], digits: str) -> int | None:
    """The place of the first number that begins with these digits behind one of those."""
    return next((n for n, number in enumerate(numbers) if any(number.startswith(own + digits) for own in behind)), None)
