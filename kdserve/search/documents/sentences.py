"""Where the sentences of a passage stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from heapq import merge

from kdserve.runtime.stops import sentence_ends
from kdserve.search.documents.passages import Span

PARAGRAPH_END = re.compile(r"\n\s*\n")
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
    for end in merge(sentence_ends(text), (found.end() for found in PARAGRAPH_END.finditer(text)), [len(text)]):
        while end - start > MAX_CHARACTERS:
            stop = start + MAX_CHARACTERS
            stop = max(text.rfind(" ", start + 1, stop), text.rfind("\n", start + 1, stop)) + 1 or stop
            yield start, stop
            start = stop
        yield start, end
        start = end
