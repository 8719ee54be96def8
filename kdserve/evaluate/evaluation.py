"""Whole evaluations: a metric over every language of a file set, gathered into one record."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kdserve import samples
from kdserve.datatypes import Embedder, Progress, no_progress
from kdserve.errors import DataError
from kdserve.evaluate.bias import LanguageBias, language_bias
from kdserve.evaluate.questions import AnswerFigures
from kdserve.evaluate.retrieval import Document, Query, Retrieval, retrieval
from kdserve.evaluate.similarity import StsPair, cross_lingual, sts_spearman
from kdserve.evaluate.summary import Summary, summarise
from kdserve.evaluate.translation import TranslationAccuracy, TranslationPairs, translation_accuracy
from kdserve.vectors import Remembering


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One figure a language, higher is better, with what stands behind it: an accuracy, 0 to 1, or a correlation.

    `columns` maps a column's name to its figure by language ("to English", "from English"); `figures` is what counts.
    """

    name: str
    measure: Literal["accuracy", "correlation"] = "accuracy"
    figures: Mapping[str, float]
    columns: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    num_pairs: Mapping[str, int] = field(default_factory=dict)

    def summary(self, members: Collection[str] | None = None) -> Summary:
        """Mean and worst over all languages, or over `members`."""
        return summarise(self.figures, members=members)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFigures:
    """Figures of an embedder on the package's own sample corpus: a quick look, not a benchmark."""

    translation: Section
    retrieval: Retrieval
    bias: LanguageBias


def evaluate_translation(
    embedder: Embedder, pairs: Iterable[TranslationPairs], *, progress: Progress = no_progress
) -> list[Section]:
    """Translation retrieval in both directions: a section for each domain, a figure for each language.

    Raises:
        DataError: a language that one domain has twice.
    """
    found: dict[str, dict[str, TranslationAccuracy]] = {}
    all_pairs = list(pairs)
    for done, one in enumerate(all_pairs, start=1):
        by_language = found.setdefault(domain := one.domain or "pairs", {})
        if one.language in by_language:
            raise DataError(f"{one.language} is there twice in the domain {domain}; name one of them otherwise")
        by_language[one.language] = translation_accuracy(embedder, one.sources, one.targets)
        progress("translation retrieval", done, len(all_pairs))
    return [_translation_section(domain, by_language) for domain, by_language in found.items()]


def evaluate_sts(
    embedder: Embedder,
    pairs: Mapping[str, Sequence[StsPair]],
    *,
    languages: Collection[str] | None = None,
    progress: Progress = no_progress,
) -> list[Section]:
    """STS Spearman for each language, and between English and each other one where English is there.

    A cross-lingual figure is the mean of both ways round: English first, and English second. `languages` are those
    that get figures, all by default.

    Raises:
        DataError: scores of a language that order nothing, or rows of one that are not those of English.
    """
    english = pairs.get("en")
    within, across, both = {}, {}, {}
    wanted = {language: own for language, own in pairs.items() if languages is None or language in languages}
    for done, (language, own) in enumerate(wanted.items(), start=1):
        try:
            within[language] = sts_spearman(embedder, own)
            if english and language != "en":
                first = sts_spearman(embedder, cross_lingual(english, own))
                second = sts_spearman(embedder, cross_lingual(own, english))
                across[language], both[language] = (first + second) / 2, (first, second)
        except DataError as error:
            raise DataError(f"similarity in {language}: {error}") from error
        progress("sentence similarity", done, len(wanted))
    counts = {language: len(own) for language, own in wanted.items()}
    sections = [Section(name="sts", measure="correlation", figures=within, num_pairs=counts)]
    if across:
        columns = {
            "English first": {language: figures[0] for language, figures in both.items()},
            "English second": {language: figures[1] for language, figures in both.items()},
        }
        sections.append(
            Section(name="sts cross-lingual", measure="correlation", figures=across, columns=columns, num_pairs=counts)
        )
    return sections


def answer_sections(figures: AnswerFigures) -> list[Section]:
    """Recall@1 of questions within each language and, where there are several, between each and the others."""
    counts = dict.fromkeys(figures.within, figures.num_questions)
    name = f"question to {figures.unit}"
    sections = [Section(name=name, figures=figures.within, num_pairs=counts)]
    if len(counts) > 1:
        columns = {"asked in it": figures.asked, "answered in it": figures.answered}
        both = {language: (figures.asked[language] + figures.answered[language]) / 2 for language in counts}
        sections.append(Section(name=f"{name}, across", figures=both, columns=columns, num_pairs=counts))
    return sections


def evaluate_samples(embedder: Embedder, *, languages: Collection[str] | None = None) -> SampleFigures:
    """Measure on the package's sample corpus: translations, queries against documents, language bias.

    Raises:
        DataError: a language that the sample corpus does not have.
    """
    parallel = samples.parallel()
    if unknown := sorted(set(languages or ()) - parallel.keys()):
        raise DataError(f"the sample corpus has no {', '.join(unknown)}; it has {', '.join(parallel)}")
    chosen = {code: texts for code, texts in parallel.items() if not languages or code in languages or code == "en"}
    pairs = [
        TranslationPairs(domain="samples", language=code, sources=texts, targets=parallel["en"])
        for code, texts in chosen.items()
        if code != "en"
    ]
    if not pairs:
        raise DataError("translations from English into English say nothing; name another language")
    documents = [Document(id=d.id, language=d.lang, text=d.text) for d in samples.documents() if d.lang in chosen]
    known = {document.id for document in documents}
    queries = [
        Query(id=q.id, language=q.lang, text=q.text, answers=frozenset(q.answers) & known)
        for q in samples.queries()
        if q.lang in chosen
    ]
    embedder = Remembering(embedder)  # all three embed the same sentences
    return SampleFigures(
        translation=evaluate_translation(embedder, pairs)[0],
        retrieval=retrieval(embedder, documents, queries, scope="pooled"),
        bias=language_bias(embedder, chosen),
    )


def _translation_section(domain: str, by_language: Mapping[str, TranslationAccuracy]) -> Section:
    return Section(
        name=domain,
        figures={language: accuracy.mean for language, accuracy in by_language.items()},
        columns={
            "to English": {language: accuracy.forward for language, accuracy in by_language.items()},
            "from English": {language: accuracy.backward for language, accuracy in by_language.items()},
        },
        num_pairs={language: accuracy.num_pairs for language, accuracy in by_language.items()},
    )
