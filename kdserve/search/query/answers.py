"""The sentences of found passages that are nearest to the question: they answer it, whatever language either is in, and
passages are ordered anew by them.

N sentences of all hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter, itemgetter

from kdserve.datatypes import Embedder, Hit
from kdserve.search.documents.document import Id
from kdserve.search.documents.sentences import split_sentences


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A sentence, the characters [start, end) of the hit's text. `score` is its inner product with the question."""

    text: str
    score: float
    start: int
    end: int
    hit: Hit

    @property
    def rank_score(self) -> float:
        """What answers of several passages are ranked by: the passage tells of its sentence too."""
        return self.score + 0.5 * self.hit.score


class Sentences:
    """The sentences of some hits: `texts`, one hit's behind the other's, of those whose nearest is not known yet."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = hits
        self._spans = [[] if hit.sentence else split_sentences(hit.text) or [(0, len(hit.text))] for hit in hits]
        self.texts = [hit.text[start:end] for hit, some in zip(hits, self._spans, strict=True) for start, end in some]

    def nearest(self, scores_N: Sequence[float]) -> list[Answer]:
        """The sentence of each hit that is nearest to a question, in the hits' order, from the scores of `texts`."""
        best, first = [], 0
        for hit, some in zip(self._hits, self._spans, strict=True):
            if hit.sentence is not None:
                start, end, score = hit.sentence.start, hit.sentence.end, hit.sentence.score
            else:
                scored = zip(scores_N[first : first + len(some)], some, strict=True)
                score, (start, end) = max(scored, key=itemgetter(0))
            best.append(Answer(text=hit.text[start:end], score=score, start=start, end=end, hit=hit))
            first += len(some)
        return best


def best_sentences(question: str, hits: Sequence[Hit], encoder: Embedder) -> list[Answer]:
    """The sentence of each hit that is nearest to the question, in the order of the hits.

    Hits of an index that keeps sentences bring theirs along, the one that is nearest to what was searched for.
    """
    sentences = Sentences(hits)
    if not sentences.texts:
        return sentences.nearest([])
    scores_N = encoder.encode_document(sentences.texts) @ encoder.encode_query([question])[0]
    return sentences.nearest(scores_N.tolist())


def rerank(best: Sequence[Answer]) -> list[Hit]:
    """Order hits anew by the mean of their own score and their best sentence's, which is their score then; of those of
    one document the best stays.
    """
    scored = [replace(one.hit, score=(one.hit.score + one.score) / 2) for one in best]
    of_each: dict[Id, Hit] = {}
    for hit in sorted(scored, key=attrgetter("score"), reverse=True):
        of_each.setdefault(hit.id, hit)
    return list(of_each.values())


def answer_question(question: str, hits: Sequence[Hit], encoder: Embedder) -> list[Answer]:
    """The best sentence of each hit, the best answer first: by its own score and that of its passage together, so that
    hits are best as they come (`rerank=0`).
    """
    return sorted(best_sentences(question, hits, encoder), key=lambda answer: -answer.rank_score)
