"""Retrieval: does a query find its answer, in its own language, in others, and when all share one pool?

Axes: Q queries, N documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Embedder
from kdserve.errors import DataError
from kdserve.vectors import checked

Scope = Literal["pooled", "monolingual", "cross-lingual"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text that can be an answer."""

    id: str
    language: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A question and the ids of the documents that answer it."""

    id: str
    language: str
    text: str
    answers: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """How well queries found their answers; all figures 0 to 1.

    `accuracy_at_1` is the share whose first hit is an answer, `recall_at_10` the share of answers among the first
    ten (of at most ten), `mrr` the mean of 1/rank of the first answer, `mean_average_precision` counts every answer.
    `num_queries` are the queries that have an answer in the scope.
    """

    scope: Scope
    num_queries: int
    num_documents: int
    accuracy_at_1: float
    recall_at_10: float
    mrr: float
    mean_average_precision: float


def retrieval(
    embedder: Embedder, documents: Sequence[Document], queries: Sequence[Query], *, scope: Scope = "pooled"
) -> Retrieval:
    """Rank the documents for every query by cosine and measure where the answers stand.

    `scope` says which documents a query sees: all ("pooled"), those in its own language ("monolingual") or those in
    other languages ("cross-lingual"). A document tied with an answer counts as ranked before it.

    Raises:
        DataError: a document id that occurs twice, an answer that is no document, or no query with an answer in scope.
    """
    positions = _positions(documents, queries)
    document_ND = checked(embedder.encode_document([d.text for d in documents]), len(documents), embedder.dim)
    query_QD = checked(embedder.encode_query([q.text for q in queries]), len(queries), embedder.dim)
    languages = np.array([document.language for document in documents])
    ranks = []
    for query, query_D in zip(queries, query_QD, strict=True):
        visible_N = _visible(languages, query.language, scope)
        answers_N = np.zeros(len(documents), bool)
        answers_N[[positions[answer] for answer in query.answers]] = True
        answers_N &= visible_N
        if answers_N.any():
            scores_N = document_ND @ query_D
            ranks.append(answer_ranks(scores_N[answers_N], scores_N[visible_N & ~answers_N]))
    if not ranks:
        raise DataError(f"no query has an answer in the {scope} scope; check the languages of queries and documents")
    return Retrieval(
        scope=scope,
        num_queries=len(ranks),
        num_documents=len(documents),
        accuracy_at_1=float(np.mean([rank[0] == 1 for rank in ranks])),
        recall_at_10=float(np.mean([np.sum(rank <= 10) / min(len(rank), 10) for rank in ranks])),
        mrr=float(np.mean([1 / rank[0] for rank in ranks])),
        mean_average_precision=float(np.mean([average_precision(rank) for rank in ranks])),
    )


def answer_ranks(answers: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Ranks (from 1, ascending) of the answers' scores among all; of equal scores the others stand first."""
    best_first = np.sort(answers)[::-1]
    before = len(others) - np.searchsorted(np.sort(others), best_first, side="left")
    return before + np.arange(1, len(answers) + 1)


def average_precision(ranks: npt.NDArray[np.int64]) -> float:
    """Mean over the answers of the precision at their rank; `ranks` ascend from 1."""
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def _positions(documents: Sequence[Document], queries: Sequence[Query]) -> dict[str, int]:
    positions = {document.id: position for position, document in enumerate(documents)}
    if len(positions) < len(documents):
        twice = next(d.id for position, d in enumerate(documents) if positions[d.id] != position)
        raise DataError(f"document id {twice!r} occurs twice; ids must be unique")
    for query in queries:
        if unknown := query.answers - positions.keys():
            raise DataError(f"query {query.id!r} names answer {min(unknown)!r}, which is no document")
    return positions


def _visible(languages: npt.NDArray[np.str_], language: str, scope: Scope) -> npt.NDArray[np.bool_]:
    own = np.asarray(languages == language, bool)
    match scope:
        case "pooled":
            return np.ones_like(own)
        case "monolingual":
            return own
        case "cross-lingual":
            return ~own
