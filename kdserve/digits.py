"""Digits of every script, read as 0 to 9."""

from __future__ import annotations

import unicodedata


def fold_digits(text: str) -> str:
    """Write 0 to 9 for every script's digits, and for raised ones."""
    return "".join(str(unicodedata.digit(letter, letter)) for letter in text)
