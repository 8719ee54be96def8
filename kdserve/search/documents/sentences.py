"""Where the sentences of a passage stand."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kdserve.runtime.stops import CLOSERS, STOP, WIDE_STOP
from kdserve.search.documents.passages import Span

END = rf"{STOP}{CLOSERS}\s+|{WIDE_STOP}\s*"
"""What ends a sentence on its line, and the white space behind it."""
SENTENCE_END = re.compile(rf"{END}|\n\s*\n")
MAX_CHARACTERS = 300
"""Longer sentences, as in scripts and lists without full stops, are cut at a space before."""
MAX_SENTENCES = 64
"""So many of a passage are looked at; a passage of 512 tokens has fewer."""


def split_sentences(text: str) -> list[Span]:
    """Where the first sentences of a text stand, without the white space around them; an empty line ends one too."""
    spans = []
    for start, end in _stretches(text):
        part = text[start:end]
        if part.strip():
            spans.append((start + len(part) - len(part.lstrip()), start + len(part.rstrip())))
        if len(spans) == MAX_SENTENCES:
            break
    return spans


def _stretches(text: str) -> Iterator[Span]:
    start = 0
    while start < len(text):
        found = SENTENCE_END.search(text, start, start + MAX_CHARACTERS)
        stop = found.end() if found else start + MAX_CHARACTERS
        if not found and stop < len(text):
            stop = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop), start) + 1
            stop = stop if stop > start + 1 else start + MAX_CHARACTERS
        yield start, min(stop, len(text))
        start = stop
