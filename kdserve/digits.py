"""Digits of every script, read as 0 to 9, and numbers as everybody writes them."""

from __future__ import annotations

import math
import re
import unicodedata

INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def fold_digits(text: str) -> str:
    """Write 0 to 9 for every script's digits, and for raised ones."""
    return "".join(str(unicodedata.digit(letter, letter)) for letter in text)


def parse_number(text: str) -> int | float | None:
    """The finite number that a text is, None where it is none.

    Python's own readers would also take 2020_21, spaces, "nan" and the digits of other scripts.
    """
    if INTEGER.fullmatch(text):
        return int(text)
    number = float(text) if DECIMAL.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None
