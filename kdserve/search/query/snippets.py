"""The part of a text to show for a query: what stands around the query's words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from kdserve.datatypes import Hit
from kdserve.runtime.normalizer import fold_word
from kdserve.runtime.stops import sentence_ends
from kdserve.search.documents.passages import Span
from kdserve.search.index.lexical import MAX_QUERY_CHARACTERS, UNSPACED, WORD

MAX_CHARACTERS = 240
MAX_TEXT_CHARACTERS = 20_000
"""How much of a text is looked at for words."""
LINE_END = re.compile(r"\n+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snippet:
    """The characters [start, end) of a text, and where in the snippet the query's words stand."""

    text: str
    start: int
    end: int
    highlights: tuple[Span, ...]


def snippet_of(hit: Hit, query: str) -> Snippet:
    """What to show of a hit: what stands around its sentence that is nearest to the query, where the index says it, or
    around the query's words where that one is without.
    """
    by_words = make_snippet(hit.text, query)
    if hit.sentence is None:
        return by_words
    nearest = make_snippet(hit.text, query, around=(hit.sentence.start, hit.sentence.end))
    return by_words if by_words.highlights and not nearest.highlights else nearest


def make_snippet(text: str, query: str, *, around: Span | None = None, max_characters: int = MAX_CHARACTERS) -> Snippet:
    """Choose the window of at most `max_characters` that holds the characters `around`; or, without them, most of the
    query's different words, the rarer in the text the better; of equals the first. It begins with a sentence or a word,
    and is the beginning where no word meets.
    Words are looked for in the first 20,000 characters of the text, and taken from the first 10,000 of the query.
    """
    wanted = _wanted(query[:MAX_QUERY_CHARACTERS])
    found = [(word, span) for word, span in _words(text[:MAX_TEXT_CHARACTERS]) if word in wanted]
    first, last = around or _best_window(found, max_characters)
    last = min(last, first + max_characters)
    start = _beginning(text, first, last, max_characters)
    end = _ending(text, start, max_characters)
    start += len(text[start:end]) - len(text[start:end].lstrip())
    end = max(start, start + len(text[start:end].rstrip()))
    inside = [span for _, span in found if start <= span[0] and span[1] <= end]
    return Snippet(
        text=text[start:end], start=start, end=end, highlights=tuple((a - start, b - start) for a, b in _joined(inside))
    )


@lru_cache(maxsize=16)
def _wanted(query: str) -> frozenset[str]:
    """The words of a query, read once for all its hits."""
    return frozenset(word for word, _ in _words(query))


def _words(text: str) -> list[tuple[str, Span]]:
    """Words without case and accents, with their places; stretches of unspaced scripts as pairs of characters."""
    words: list[tuple[str, Span]] = []
    for match in WORD.finditer(text):
        end = match.start()
        for stretch in UNSPACED.finditer(text, match.start(), match.end()):
            if stretch.start() > end:
                words.append((fold_word(text[end : stretch.start()]), (end, stretch.start())))
            last = max(stretch.start() + 1, stretch.end() - 1)
            words += [(text[n : n + 2], (n, min(n + 2, stretch.end()))) for n in range(stretch.start(), last)]
            end = stretch.end()
        if end < match.end():
            words.append((fold_word(text[end : match.end()]), (end, match.end())))
    return words


def _best_window(found: Sequence[tuple[str, Span]], max_characters: int) -> Span:
    """From the start of the first to the end of the last word of the best window; (0, 0) without any words."""
    counts = Counter(word for word, _ in found)
    inside: Counter[str] = Counter()
    best, best_weight, weight, first = (0, 0), 0.0, 0.0, 0
    for last, (word, (_, end)) in enumerate(found):
        inside[word] += 1
        weight += 1 / counts[word] if inside[word] == 1 else 0.0
        while first < last and end - found[first][1][0] > max_characters:
            gone = found[first][0]
            inside[gone] -= 1
            weight -= 1 / counts[gone] if not inside[gone] else 0.0
            first += 1
        if weight > best_weight + 1e-9:
            best, best_weight = (found[first][1][0], end), weight
    return best


def _beginning(text: str, first: int, last: int, max_characters: int) -> int:
    """Where a window that holds [first, last) begins: with its sentence, or a word, where that leaves enough room."""
    earliest = max(0, last - max_characters)
    if earliest == 0:
        return 0
    lines = [match.end() for match in LINE_END.finditer(text, earliest - 1, first)]
    ends = {*lines, *sentence_ends(text, earliest - 1, first + 1)}
    sentences = sorted(end for end in ends if end <= first)
    if sentences:
        return sentences[0] if first - sentences[0] <= max_characters // 2 else sentences[-1]
    earliest = max(earliest, first - max_characters // 3)
    space = re.compile(r"\s").search(text, earliest, first)
    return space.end() if space else earliest


def _ending(text: str, start: int, max_characters: int) -> int:
    """Where a window that begins at `start` ends: before a word that it would cut."""
    end = start + max_characters
    if end >= len(text):
        return len(text)
    space = max(text.rfind(" ", start, end + 1), text.rfind("\n", start, end + 1))
    return space if space > start + max_characters // 2 else end


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans that overlap become one: pairs of characters that follow each other."""
    joined: list[Span] = list(spans[:1])
    for (_, _), (start, end) in pairwise(spans):
        if start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
