"""Which encoders may query an index: the one that built it, and its teacher or its students.

A student gives nearly the vectors of its teacher, so that it can query an index that the teacher built,
or the other way round. Manifests say who is whose teacher. How much is lost is measured when the index is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from kdserve.datatypes import Embedder
from kdserve.errors import FolderError
from kdserve.search.backends.exact import ExactSearcher
from kdserve.search.backends.topk import SearchedSegment, nearest
from kdserve.search.index.segment import Segment

TEACHER = "teacher"
NUM_QUERIES = 256
QUERY_CHARACTERS = 60
K = 10


@runtime_checkable
class Descendant(Embedder, Protocol):
    """An embedder that knows what it was made from: `parents` maps "teacher" to that one's fingerprint."""

    @property
    def parents(self) -> Mapping[str, str]:
        """Fingerprints by role."""


@runtime_checkable
class Sourced(Embedder, Protocol):
    """An embedder that knows what it is opened from."""

    @property
    def source(self) -> str:
        """A published name, or a bundle's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompatibleEncoder:
    """An encoder whose queries were measured: the share of the 10 nearest that they find, against the builder's."""

    encoder: str
    recall: float


def source_of(encoder: Embedder) -> str:
    """What opens an encoder again, "" where it does not say."""
    return encoder.source if isinstance(encoder, Sourced) else ""


def teacher_of(encoder: Embedder) -> str:
    """The fingerprint of an encoder's teacher, "" where it has none."""
    return encoder.parents.get(TEACHER, "") if isinstance(encoder, Descendant) else ""


def require_compatible(index: Path | str, built_with: str, teacher: str, encoder: Embedder) -> None:
    """Refuse an encoder that neither built the index, nor is its builder's teacher or student.

    Raises:
        FolderError: a stranger.
    """
    if encoder.fingerprint != built_with and encoder.fingerprint != teacher and teacher_of(encoder) != built_with:
        raise FolderError(
            f"{index} was built with encoder {built_with[:12]}, this one is {encoder.fingerprint[:12]}; "
            "name the bundle that it was built with, or build the index again"
        )


def measure_compatible(segment: Segment, builder: Embedder, other: Embedder) -> CompatibleEncoder:
    """How much of the 10 nearest documents of the builder's queries the other encoder's queries find.

    The queries are the beginnings of documents.
    """
    random = np.random.default_rng(0)
    num_documents = segment.record.num_documents
    docs = random.choice(num_documents, min(NUM_QUERIES, num_documents), replace=False)
    stored = segment.stored.documents(sorted(docs.tolist()))
    texts = [document.text[:QUERY_CHARACTERS] for document in stored.values()]
    right, found = (_nearest_rows(segment, encoder, texts) for encoder in (builder, other))
    shares = [len(set(a) & set(b)) / len(a) for a, b in zip(right, found, strict=True)]
    return CompatibleEncoder(encoder=other.fingerprint, recall=float(np.mean(shares)))


def _nearest_rows(segment: Segment, encoder: Embedder, texts: Sequence[str]) -> list[list[int]]:
    source = SearchedSegment(
        searcher=ExactSearcher(segment.vectors),
        vectors=segment.vectors,
        first_row=0,
        num_rows=segment.num_rows,
        allowed=None,
        owners=None,
    )
    k = min(K, segment.num_rows)
    rows: list[list[int]] = nearest(encoder.encode_query(texts), [source], k).rows.tolist()
    return rows
