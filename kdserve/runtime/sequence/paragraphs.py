"""From texts to the pieces that are read at once, and from their outputs back to texts of the same form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from kdserve.runtime.normalizer import is_blank
from kdserve.runtime.sequence.sentences import Sentence, split_long, split_sentences
from kdserve.runtime.tokens import TextTokenizer

_LINE_END = re.compile(r"(\r\n?|\n)")
_UNSPACED = frozenset(("zh", "ja", "th", "lo", "km", "my", "yue"))
"""Languages that put no space between sentences."""
_LINK = re.compile(r"[a-z]{2,12}://[!-~]+|[\w.+-]{1,64}@[\w.-]+", re.ASCII | re.IGNORECASE)
"""An address of the web or of mail; bounded, so that a line of megabytes takes no square of its length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What was written for a text, and how many of its pieces were cut at a limit, read or written."""

    text: str
    num_cut: int


@dataclass(slots=True)
class Plan:
    """The pieces of all texts and their `ids`, in order, and how the outputs make texts again.

    `layout` has, for each text, strings that stay and None where the next piece's output goes.
    """

    pieces: list[str] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    is_cut: list[bool] = field(default_factory=list)
    layout: list[list[str | None]] = field(default_factory=list)

    def put_together(self, pieces: Iterable[str], is_cut: Iterable[bool]) -> list[Output]:
        """Put what was written for the pieces into their places; `is_cut` says whether that was cut."""
        written, outputs = zip(pieces, self.is_cut, is_cut, strict=True), []
        for parts in self.layout:
            own = list(islice(written, parts.count(None)))
            texts = iter(own)
            text = "".join(next(texts)[0] if part is None else part for part in parts)
            outputs.append(Output(text=text, num_cut=sum(read + wrote for _, read, wrote in own)))
        return outputs


def plan_texts(
    texts: Sequence[str], tokenizer: TextTokenizer, *, prefix: str, task: Literal["translate", "summarise"], target: str
) -> Plan:
    """Cut texts into pieces: to translate, sentences no longer than the tokenizer's limit; to summarise, whole texts.

    What has no words (numbers, signs, links) stays as it is. `target` is the language of the outputs, which says what
    stands between two sentences that had no space.
    """
    plan = Plan()
    between = "" if target in _UNSPACED else " "

    def fits(text: str) -> bool:
        return not tokenizer.tokenize([prefix + text]).is_cut[0]

    for text in texts:
        parts: list[str | None] = []
        lines = [text] if task == "summarise" else _LINE_END.split(text)
        for number, line in enumerate(lines):
            if is_end := number % 2:
                parts.append(line)
            if is_end or is_blank(line):
                continue
            body = line.strip()
            before, _, after = line.partition(body)
            own = [Sentence(body, "")] if task == "summarise" else _readable(body, fits)
            parts.append(before)
            for sentence in own:
                if has_words := _has_words(sentence.text):
                    plan.pieces.append(sentence.text)
                parts += [None if has_words else sentence.text, sentence.space or between]
            parts[-1] = after
        plan.layout.append(parts)
    tokenized = tokenizer.tokenize([prefix + piece for piece in plan.pieces])
    plan.ids, plan.is_cut = tokenized.ids, tokenized.is_cut
    return plan


def _has_words(piece: str) -> bool:
    """Whether letters stand in it outside of links, or digits of another script than ours."""
    return any(one.isalpha() or (one.isdecimal() and not one.isascii()) for one in _LINK.sub("", piece))


def _readable(line: str, fits: Callable[[str], bool]) -> list[Sentence]:
    """The sentences of a line, those too long cut."""
    return [part for sentence in split_sentences(line) for part in split_long(sentence, fits=fits)]
