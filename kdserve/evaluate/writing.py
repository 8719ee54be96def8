"""What a translator's or summariser's outputs are worth: BLEU and chrF by sacrebleu, ROUGE by rouge-score, and what
readers notice first: outputs that are empty, that go round in circles, or that have lost a number or a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from unicodedata import category

from kdserve.datatypes import Progress, no_progress
from kdserve.digits import fold_digits
from kdserve.errors import DataError, MissingExtraError
from kdserve.evaluate.translation import TranslationPairs

Write = Callable[[Sequence[str]], Sequence[str]]
_CIRCLE = re.compile(r"(?s)(.{3,60}?)\1{3,}")
_CIRCLE_CHARACTERS = 24
_NUMBER = re.compile(r"\d+(?:[.,\u00a0\u202f]\d+)*")
_NAME = re.compile(r"(?<!\w)[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ]{3,}(?!\w)")
_TOKENISERS = {"zh": "zh", "ja": "char", "ko": "char", "th": "char"}
"""How BLEU cuts outputs in languages without spaces; 13a cuts all others."""
_SINGLE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Characters of Chinese, Japanese and Korean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WritingFigures:
    """One language of one domain: BLEU and chrF, or for summaries ROUGE-L, in points of 100, and shares of outputs.

    ROUGE-L compares stems in English, `Words` in all other languages.

    `empty` are blank where the source is not, `circles` say a stretch four times in a row where the source does not.
    Of `num_numbers` numbers in the sources, `numbers_lost` stand in no output; of `num_names` names that a source and
    its target both have, `names_lost`.
    """

    domain: str
    language: str
    num_pairs: int
    bleu: float
    chrf: float
    rouge_l: float
    empty: float
    circles: float
    num_numbers: int
    numbers_lost: int
    num_names: int
    names_lost: int
    signatures: Mapping[str, str] = field(default_factory=dict)


def measure_writing(
    write: Write, pairs: Iterable[TranslationPairs], *, target: str = "en", progress: Progress = no_progress
) -> list[WritingFigures]:
    """Let `write` turn sources into outputs and compare them with the targets; a row for each domain and language.

    `target` is the language of the outputs.

    Raises:
        MissingExtraError: sacrebleu or rouge-score is not installed.
        DataError: as many outputs as sources did not come back.
    """
    rows, listed = [], list(pairs)
    for done, one in enumerate(listed, start=1):
        outputs = list(write(one.sources))
        if len(outputs) != len(one.sources):
            raise DataError(f"{len(one.sources)} sources came back as {len(outputs)} outputs; they must match")
        rows.append(_figures(one, outputs, target))
        progress("translations", done, len(listed))
    return rows


def corpus_chrf(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Character F-score of all outputs together (Popović 2015), in points of 100.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import CHRF
    except ModuleNotFoundError as error:
        raise MissingExtraError("sacrebleu", "translation") from error
    return float(CHRF().corpus_score(list(outputs), [list(references)]).score)


def is_circle(text: str) -> bool:
    """Say whether a text says one stretch at least four times in a row, over 24 characters or more."""
    return any(len(match[0]) >= _CIRCLE_CHARACTERS for match in _CIRCLE.finditer(text))


def lost_numbers(source: str, output: str) -> tuple[int, int]:
    """Count a source's numbers and those that its output does not have; separators and scripts do not matter."""
    wanted, found = (
        ["".join(filter(str.isdigit, number)) for number in _NUMBER.findall(fold_digits(text))]
        for text in (source, output)
    )
    return len(wanted), sum(number not in found for number in wanted)


def lost_names(source: str, target: str, output: str) -> tuple[int, int]:
    """Count the names that a source and its target both have, words of three letters and more with a capital one in
    Latin script, and those of them that the output does not have.
    """
    names = {word for word in _NAME.findall(source) if word[0].isupper()}.intersection(_NAME.findall(target))
    return len(names), len(names.difference(_NAME.findall(output)))


def _figures(one: TranslationPairs, outputs: list[str], target: str) -> WritingFigures:
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU, CHRF
    except ModuleNotFoundError as error:
        raise MissingExtraError("sacrebleu and rouge-score", "translation") from error
    bleu, chrf = BLEU(tokenize=_TOKENISERS.get(target, "13a")), CHRF()
    references = [list(one.targets)]
    scores = {
        "bleu": bleu.corpus_score(outputs, references).score,
        "chrf": chrf.corpus_score(outputs, references).score,
    }
    rouge = RougeScorer(["rougeL"], use_stemmer=True) if target == "en" else RougeScorer(["rougeL"], tokenizer=Words())
    found = [
        rouge.score(wanted, output)["rougeL"].fmeasure for wanted, output in zip(one.targets, outputs, strict=True)
    ]
    both = list(zip(one.sources, outputs, strict=True))
    numbers = [lost_numbers(source, output) for source, output in both]
    names = [lost_names(*three) for three in zip(one.sources, one.targets, outputs, strict=True)]
    return WritingFigures(
        domain=one.domain or "pairs",
        language=one.language,
        num_pairs=len(outputs),
        **scores,
        rouge_l=100 * sum(found) / len(found),
        empty=share(not output.strip() and bool(source.strip()) for source, output in both),
        circles=share(is_circle(output) and not is_circle(source) for source, output in both),
        num_numbers=sum(count for count, _ in numbers),
        numbers_lost=sum(lost for _, lost in numbers),
        num_names=sum(count for count, _ in names),
        names_lost=sum(lost for _, lost in names),
        signatures={"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())},
    )


class Words:
    """Cuts a text for rouge-score, whose own way drops all but the letters a to z: runs of letters, marks and digits in
    lower case, single characters of Chinese, Japanese and Korean.
    """

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        letters = (f" {c} " if _SINGLE.match(c) else c if category(c)[0] in "LMN" else " " for c in text.lower())
        return "".join(letters).split()


def share(flags: Iterable[bool]) -> float:
    """The share of true ones; 0 of none."""
    listed = list(flags)
    return sum(listed) / len(listed) if listed else 0.0
