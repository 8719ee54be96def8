"""The texts that an export looks at: some to calibrate on, others to be judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from kdserve.errors import DataError
from kdserve.samples import parallel

_JOINED = 4
_DEV_EVERY = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class GateTexts:
    """Texts by language code. `parallel`: position i says the same in each language, so retrieval can be measured."""

    by_language: Mapping[str, Sequence[str]]
    parallel: bool


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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}); give a file of texts") from error
    tabbed = bool(lines) and "\t" in lines[0]
    texts: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        language, tab, text = line.partition("\t") if tabbed else ("all", "\t", line)
        if not tab or "\t" in text:
            raise DataError(f"{path}, line {number}: expected language<TAB>text; mend the line")
        texts.setdefault(language, []).append(text)
    if not texts:
        raise DataError(f"{path} holds no text; give a file with one text a line")
    return GateTexts(by_language=texts, parallel=False)


def calibration_texts(languages: Sequence[str]) -> CalibrationTexts:
    """Return the packaged sentences in the languages asked for, or all where none fits, single and joined to longer
    texts. They were written for kdserve, 26 in each of twelve languages, none of them in the sample data; every third
    goes to development.
    """
    lines = resources.files(__package__).joinpath("calibration.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    wanted = [(code, text) for code, text in pairs if code in languages] or [(code, text) for code, text in pairs]
    ranges = [text for i, (_, text) in enumerate(wanted) if i % _DEV_EVERY]
    development = [text for i, (_, text) in enumerate(wanted) if not i % _DEV_EVERY]
    return CalibrationTexts(ranges=ranges + _join(ranges), development=development + _join(development))


def _join(texts: Sequence[str]) -> list[str]:
    return [" ".join(texts[i : i + _JOINED]) for i in range(0, len(texts), _JOINED)]
