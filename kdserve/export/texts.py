"""The texts that an export looks at: some to calibrate on, others to be judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle, islice, zip_longest
from pathlib import Path

from kdserve.datatypes import TokenBatch
from kdserve.errors import DataError
from kdserve.lines import read_lines
from kdserve.runtime.batches import make_batches
from kdserve.runtime.encoder import Role
from kdserve.runtime.tokens import TextTokenizer
from kdserve.samples import parallel

_PROBED = 24
_LONG_TOKENS = 2048
_JOINED = 4
_DEV_EVERY = 3
_CALIBRATION_TOKENS = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class GateTexts:
    """Texts by language code. `parallel`: position i says the same in each language, so retrieval can be measured."""

    by_language: Mapping[str, Sequence[str]]
    parallel: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Texts that show one thing, embedded as documents or queries."""

    name: str
    texts: Sequence[str]
    role: Role = "document"


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationTexts:
    """Texts for the ranges of activations, and other texts for choosing among ways to smooth them."""

    ranges: list[str]
    development: list[str]


def sample_gate_texts(languages: Sequence[str]) -> GateTexts:
    """Return the sample corpus in those of its languages that a student was made for; English always."""
    corpus = parallel()
    chosen = {code: texts for code, texts in corpus.items() if code in languages or code == "en"}
    return GateTexts(by_language=chosen, parallel=True)


def read_gate_texts(path: Path) -> GateTexts:
    """Read `language<TAB>text` lines, or plain lines, which count as one language named `all`.

    Raises:
        DataError: missing, empty, not UTF-8, or some lines with a tab and others without.
    """
    tabbed, texts = False, dict[str, list[str]]()
    for number, line in read_lines(path):
        if not line.strip():
            continue
        tabbed = tabbed if texts else "\t" in line
        language, tab, text = line.partition("\t") if tabbed else ("all", "\t", line)
        if not tab or "\t" in text:
            raise DataError(f"{path}, line {number}: expected language<TAB>text; fix the line")
        texts.setdefault(language, []).append(text)
    if not texts:
        raise DataError(f"{path} holds no text; give a file with one text a line")
    return GateTexts(by_language=texts, parallel=False)


def probe_texts(texts: GateTexts, *, max_tokens: int) -> tuple[Probe, ...]:
    """Return what the gate's texts as documents do not show: long texts, capitals, and queries.

    English sentences of the samples join them: the gate's own may be in a script without capitals, or very few.
    """
    own = [text for row in zip_longest(*texts.by_language.values()) for text in row if text]
    sentences = [*parallel()["en"][:_PROBED], *own[:_PROBED]]
    num_long = max(2, min(8, _LONG_TOKENS // max_tokens))
    return (
        Probe(name="long texts", texts=[_longer_than(max_tokens, sentences, 3 * i) for i in range(num_long)]),
        Probe(name="capitals", texts=[text.upper() for text in sentences]),
        Probe(name="queries", texts=sentences, role="query"),
    )


def _longer_than(max_tokens: int, sentences: Sequence[str], start: int) -> str:
    """Join sentences, from one on and around, until there are more words than tokens are read."""
    around = islice(cycle(sentences), start, None)
    words: list[str] = []
    while len(words) <= max_tokens:
        words += next(around).split()
    return " ".join(words)


def calibration_texts(languages: Sequence[str]) -> CalibrationTexts:
    """Return the packaged sentences in the languages asked for, or all where none fits, single and joined to longer
    texts. They were written for kdserve, 26 in each of twelve languages, none of them in the sample data; every third
    goes to development.
    """
    lines = resources.files(__package__).joinpath("calibration.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    wanted = [pair for pair in pairs if pair[0] in languages] or pairs
    ranges = [text for i, (_, text) in enumerate(wanted) if i % _DEV_EVERY]
    development = [text for i, (_, text) in enumerate(wanted) if not i % _DEV_EVERY]
    return CalibrationTexts(ranges=ranges + _join(ranges), development=development + _join(development))


def calibration_batches(languages: Sequence[str], tokenizer: Path) -> tuple[list[TokenBatch], list[TokenBatch]]:
    """Return those texts as a bundle's tokenizer reads them: the ones for ranges, and the ones for development."""
    texts, reader = calibration_texts(languages), TextTokenizer(tokenizer, parallel=False)
    ranges, development = (_batches(reader, part) for part in (texts.ranges, texts.development))
    return ranges, development


def _batches(reader: TextTokenizer, texts: list[str]) -> list[TokenBatch]:
    packed, _ = reader.pack(texts)
    return [batch for _, batch in make_batches(packed, max_batch_tokens=_CALIBRATION_TOKENS, pad_id=reader.pad_id)]


def _join(texts: Sequence[str]) -> list[str]:
    return [" ".join(texts[i : i + _JOINED]) for i in range(0, len(texts), _JOINED)]
