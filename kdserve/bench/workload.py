"""The texts that a benchmark runs on: the same ones, in the same order, for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdserve import samples
from kdserve.errors import DataError

# Sentences joined to one text, repeated over the corpus: half are single sentences as in a search box or a chat, the
# rest grows to a paragraph, so that lengths are as mixed as in real collections.
_SENTENCES_PER_TEXT = (1, 1, 2, 1, 4, 1, 2, 1, 10, 1, 2, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """`queries` are timed one by one, `documents` in batches; `description` says in a line what they are."""

    queries: Sequence[str]
    documents: Sequence[str]
    description: str

    def __post_init__(self) -> None:
        if not self.queries or not self.documents:
            raise DataError("there are no texts to time; give at least one query and one document")


def sample_workload(*, language: str = "en", num_queries: int = 64, num_documents: int = 128) -> Workload:
    """Make a workload from the package's sample sentences in one language; no text occurs twice in a list.

    English by default, which teacher and student both know, so that neither meets unknown words.

    Raises:
        DataError: the sample corpus does not have the language.
    """
    corpus = samples.parallel()
    if language not in corpus:
        raise DataError(f"the sample corpus has no language {language!r}; it has {', '.join(corpus)}")
    documents, start = [], 0
    for number in range(num_documents):
        length = _SENTENCES_PER_TEXT[number % len(_SENTENCES_PER_TEXT)]
        sentences = corpus[language]
        documents.append(" ".join(sentences[(start + i) % len(sentences)] for i in range(length)))
        start += length
    return Workload(
        queries=corpus[language][-num_queries:],
        documents=documents,
        description=f"{num_queries} sentences one by one and {num_documents} texts of 1 to 10 sentences ({language}), "
        "from the sample corpus",
    )
