"""From texts to the pieces that are read at once, and from their outputs back to texts of the same form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kdserve.runtime.normalizer import is_blank
from kdserve.runtime.sequence.sentences import Sentence, split_long, split_sentences
from kdserve.runtime.tokens import TextTokenizer

_UNSPACED = frozenset(("zh", "ja", "th", "lo", "km", "my", "yue"))
"""Languages that put no space between sentences."""


@dataclass(slots=True)
class Plan:
    """The pieces of all texts as `ids`, in order, and how the outputs make texts again.

    `layout` has, for each text, strings that stay and None where the next output goes; `num_cut` texts were cut.
    """

    ids: list[list[int]] = field(default_factory=list)
    layout: list[list[str | None]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    num_cut: int = 0

    def texts(self) -> list[str]:
        """Put the outputs, as many as there are ids, into their places."""
        outputs = iter(self.outputs)
        return ["".join(next(outputs) if part is None else part for part in parts) for parts in self.layout]


def plan_texts(
    texts: Sequence[str], tokenizer: TextTokenizer, *, prefix: str, task: Literal["translate", "summarise"], target: str
) -> Plan:
    """Cut texts into pieces: to translate, sentences no longer than the tokenizer's limit; to summarise, whole texts.

    `target` is the language of the outputs, which says what stands between two sentences that had no space.
    """
    plan, pieces = Plan(), []
    between = "" if target in _UNSPACED else " "

    def fits(text: str) -> bool:
        return not tokenizer.tokenize([prefix + text]).is_cut[0]

    for text in texts:
        parts: list[str | None] = []
        lines = [text] if task == "summarise" else text.split("\n")
        for number, line in enumerate(lines):
            parts += ["\n"] if number else []
            if is_blank(line):
                continue
            body = line.strip()
            before, _, after = line.partition(body)
            own = [Sentence(body, "")] if task == "summarise" else _readable(body, fits)
            pieces += [sentence.text for sentence in own]
            parts.append(before)
            for sentence in own:
                parts += [None, sentence.space or between]
            parts[-1] = after
        plan.layout.append(parts)
    tokenized = tokenizer.tokenize([prefix + piece for piece in pieces])
    plan.ids, plan.num_cut = tokenized.ids, sum(tokenized.is_cut)
    return plan


def _readable(line: str, fits: Callable[[str], bool]) -> list[Sentence]:
    """The sentences of a line, those too long cut."""
    return [part for sentence in split_sentences(line) for part in split_long(sentence, fits=fits)]
