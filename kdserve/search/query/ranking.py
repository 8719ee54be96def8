"""From a query to hits: by meaning, by meaning and words together, spread over languages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdserve.datatypes import Embedder, Embeddings, Hit
from kdserve.errors import DataError
from kdserve.runtime.normalizer import is_blank
from kdserve.search.backends.topk import PROPOSED_AT_ONCE, Mask, Neighbours, Scores
from kdserve.search.index.lexical import fuse
from kdserve.search.index.snapshot import Snapshot
from kdserve.search.query.answers import Sentences, rerank

DEPTH = 100
"""How many documents of each ranking are fused, or passages ordered by the sentences that the index keeps, at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """Options of a search, beside the texts.

    `k` hits, a filter, a least score, whether to rank by words too, at most so many of a language, and how many hits
    are ordered anew by their best sentences, 0 for none, None for what suits the index; `folded`, a document is one
    hit, else each passage.
    """

    k: int
    where: str = ""
    min_score: float = -np.inf
    lexical: bool = False
    per_language: int = 0
    rerank: int | None = None
    folded: bool = True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise DataError(f"k is {self.k}; ask for 1 hit or more")
        if np.isnan(self.min_score):
            raise DataError("min_score is NaN, which no score reaches; give a number")
        if self.per_language < 0:
            raise DataError(f"per_language is {self.per_language}; ask for 1 hit of a language or more, or 0 for any")
        if self.rerank is not None and self.rerank < 0:
            raise DataError(f"rerank is {self.rerank}; order 1 hit or more anew, or 0 for none")

    def settled(self, *, keeps_sentences: bool) -> SearchOptions:
        """With what is left to the index: one that keeps sentences orders hits by them, twice `k` and 100 at least."""
        if self.rerank is not None:
            return self
        return replace(self, rerank=max(DEPTH, 2 * self.k) if keeps_sentences else 0)

    @property
    def first(self) -> SearchOptions:
        """What is looked for first, where hits are ordered anew: as many as that."""
        return replace(self, k=max(self.k, self.rerank or 0), rerank=0)


def search_and_rerank(
    vectors: Embeddings,
    options: SearchOptions,
    encoder: Embedder,
    find: Callable[[SearchOptions], list[list[Hit]]],
) -> list[list[Hit]]:
    """Find hits for each query and, where that is asked for, order them anew by their best sentences."""
    found = candidates(options, find)
    if not options.rerank:
        return found
    anew = []
    for vector, hits in zip(vectors, found, strict=True):
        sentences = Sentences(hits)
        scores_N = encoder.encode_document(sentences.texts) @ vector
        anew.append(rerank(sentences.nearest(scores_N.tolist()))[: options.k])
    return anew


def candidates(options: SearchOptions, find: Callable[[SearchOptions], list[list[Hit]]]) -> list[list[Hit]]:
    """The hits for each query that are ordered anew, if that is asked for: behind them come other passages of their
    documents, of as many as are nearest to the query.
    """
    found = find(options.first)
    if not options.rerank or not any(hit.passage for hits in found for hit in hits):
        return found
    nearest = find(replace(options.first, lexical=False, per_language=0, folded=False))
    return [_with_others(hits, passages) for hits, passages in zip(found, nearest, strict=True)]


def _with_others(hits: Sequence[Hit], passages: Sequence[Hit]) -> list[Hit]:
    documents, known = {hit.id for hit in hits}, {(hit.id, hit.passage) for hit in hits}
    return [*hits, *(one for one in passages if one.id in documents and (one.id, one.passage) not in known)]


def answer(snapshot: Snapshot, texts: Sequence[str], vectors: Embeddings, options: SearchOptions) -> list[list[Hit]]:
    """The hits for each query, where `rerank` is set ordered by the sentences that the index keeps; a query that says
    nothing has none.

    Raises:
        DataError: words are asked for, and the index was built without them.
    """
    if options.lexical and not snapshot.state.lexical:
        raise DataError(
            "this index was built without words; build it again with --lexical (lexical=True) to search by them"
        )

    def ranked(numbers: Sequence[int], depth: int) -> Iterator[tuple[list[Hit], int]]:
        step = max(1, PROPOSED_AT_ONCE // max(1, depth))
        for start in range(0, len(numbers), step):
            some = numbers[start : start + step]
            found = list(_ranked(snapshot, [texts[number] for number in some], vectors[some], depth, options))
            hits = snapshot.hits(_stacked([_chosen(snapshot, one, options) for one, _ in found]), vectors[some])
            yield from zip(hits, (num_found for _, num_found in found), strict=True)

    asked = asking(texts, vectors, lexical=options.lexical)
    first_depth = max(options.k, options.rerank or 0)
    return widen_until_enough(asked, options, ranked, first_depth=first_depth, most=snapshot.num_rows)


def asking(texts: Sequence[str], vectors: Embeddings, *, lexical: bool = False) -> list[bool]:
    """Say of each query whether it asks anything: not a blank one, nor, but for its words, one of the zero vector."""
    pairs = zip(texts, vectors, strict=True)
    return [not is_blank(text) and (lexical or bool(vector.any())) for text, vector in pairs]


def widen_until_enough(
    asked: Sequence[bool],
    options: SearchOptions,
    ranked: Callable[[Sequence[int], int], Iterable[tuple[list[Hit], int]]],
    *,
    first_depth: int,
    most: int,
) -> list[list[Hit]]:
    """Rank deeper, up to `most`, for those of the queries whose hits are not `k` yet; one that asks nothing has none.

    `ranked(numbers, depth)` gives for each of those queries its hits and how many were found to make them; fewer than
    `depth` found means that there are no more.
    """
    answers: list[list[Hit]] = [[] for _ in asked]
    pending = [number for number, asks in enumerate(asked) if asks]
    depth = min(first_depth, most)
    while pending:
        unsettled = []
        for number, (hits, num_found) in zip(pending, ranked(pending, depth), strict=True):
            answers[number] = spread(hits, options)
            if len(answers[number]) < options.k and depth <= num_found and depth < most:
                unsettled.append(number)
        pending, depth = unsettled, min(depth * 4, most)
    return answers


def spread(hits: Sequence[Hit], options: SearchOptions) -> list[Hit]:
    """The first `k` hits, with no more than `per_language` of each language; hits of unknown language are one too."""
    if not options.per_language:
        return list(hits[: options.k])
    seen: Counter[str | None] = Counter()
    chosen = []
    for hit in hits:
        seen[hit.language] += 1
        if seen[hit.language] <= options.per_language:
            chosen.append(hit)
    return chosen[: options.k]


def _ranked(
    snapshot: Snapshot, texts: Sequence[str], vectors: Embeddings, depth: int, options: SearchOptions
) -> Iterator[tuple[Neighbours, int]]:
    """The best row of each document for each query, of `depth` rows at least if there are so many, and how many rows
    that was.
    """
    by_sentences = bool(options.rerank)
    min_score = -np.inf if options.lexical or by_sentences else options.min_score
    depth = max(depth, DEPTH) if options.lexical else depth
    folded = options.folded and not by_sentences
    by_meaning = snapshot.neighbours(vectors, depth, min_score=min_score, where=options.where, folded=folded)
    for text, vector, scores, rows in zip(texts, vectors, by_meaning.scores, by_meaning.rows, strict=True):
        scores, rows = scores[rows >= 0], rows[rows >= 0]
        if by_sentences:
            scores = snapshot.weighed(rows, scores, vector)
        num_found = int(_enough(scores, options).sum())
        found = Neighbours(scores=scores[None], rows=rows[None])
        if by_sentences:
            found = _best_of_each(snapshot, found)
        if options.lexical:
            by_words = snapshot.ranked_by_words(text, vector, depth, where=options.where, by_sentences=by_sentences)
            found = _fused(snapshot, [found, by_words])
        enough = _enough(found.scores[0], options)
        yield Neighbours(scores=found.scores[:, enough], rows=found.rows[:, enough]), num_found


def _enough(scores: Scores, options: SearchOptions) -> Mask:
    return scores.astype(np.float64) >= options.min_score


def _best_of_each(snapshot: Snapshot, found: Neighbours) -> Neighbours:
    """Of the rows of one query the best of each document, best first."""
    order = np.argsort(-found.scores[0], kind="stable")
    chosen = order[np.sort(np.unique(snapshot.owners(found.rows[0, order]), return_index=True)[1])]
    return Neighbours(scores=found.scores[:, chosen], rows=found.rows[:, chosen])


def _fused(snapshot: Snapshot, rankings: Sequence[Neighbours]) -> Neighbours:
    """The rows of some rankings of one query, one of each document in each, by reciprocal rank: of each document the
    best.
    """
    owners = [snapshot.owners(one.rows[0]).tolist() for one in rankings]
    best: dict[int, tuple[int, float]] = {}
    for own, one in zip(owners, rankings, strict=True):
        for owner, row, score in zip(own, one.rows[0].tolist(), one.scores[0].tolist(), strict=True):
            if owner not in best or score > best[owner][1]:
                best[owner] = row, score
    return _neighbours([best[owner] for owner in fuse(owners)])


def _chosen(snapshot: Snapshot, found: Neighbours, options: SearchOptions) -> Neighbours:
    """Leave of the rows of one query those that `spread` leaves, so that no text is read but of these."""
    rows = found.rows[0]
    chosen = np.flatnonzero(rows >= 0)
    if options.per_language:
        languages = snapshot.languages(rows[chosen])
        order = np.argsort(languages, kind="stable")
        rank = np.empty(len(order), np.int64)  # how many of its language come before
        rank[order] = np.arange(len(order)) - np.searchsorted(languages[order], languages[order])
        chosen = chosen[rank < options.per_language]
    chosen = chosen[: options.k]
    return Neighbours(scores=found.scores[:, chosen], rows=found.rows[:, chosen])


def _stacked(each: Sequence[Neighbours]) -> Neighbours:
    """The rows of several queries, each with -1 behind its own."""
    width = max(one.rows.shape[1] for one in each)
    scores, rows = np.full((len(each), width), -np.inf, np.float32), np.full((len(each), width), -1, np.int64)
    for n, one in enumerate(each):
        scores[n, : one.rows.shape[1]], rows[n, : one.rows.shape[1]] = one.scores[0], one.rows[0]
    return Neighbours(scores=scores, rows=rows)


def _neighbours(pairs: Sequence[tuple[int, float]]) -> Neighbours:
    return Neighbours(
        scores=np.array([[score for _, score in pairs]], np.float32).reshape(1, -1),
        rows=np.array([[row for row, _ in pairs]], np.int64).reshape(1, -1),
    )
