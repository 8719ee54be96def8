"""One generation of an index, opened: what a reader sees until it looks again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kdserve.datatypes import Embeddings, Hit
from kdserve.errors import FolderError
from kdserve.manifest import MANIFEST_NAME, Manifest
from kdserve.search.documents import Id
from kdserve.search.exact import ExactSearcher
from kdserve.search.generation import IndexKind, IndexState, read_state, verify_quick
from kdserve.search.rows import StoredDocument
from kdserve.search.segment import Segment
from kdserve.search.topk import Neighbours, Searcher, Source, nearest
from kdserve.search.vectors import Rows

Passage = tuple[StoredDocument, int, int]
OPEN_ATTEMPTS = 5
"""How often the pointer may change under a reader that is just opening."""


class Snapshot:
    """The segments of one generation with their searchers. Every file is verified, vectors when first touched."""

    def __init__(self, index: Path, manifest: Manifest, state: IndexState, *, exact: bool) -> None:
        verify_quick(index, manifest)
        self.state = state
        self.segments = [Segment(index, record, dim=state.dim, precision=state.precision) for record in state.segments]
        kind = "exact" if exact else state.kind
        self._searchers = [_searcher(kind, segment) for segment in self.segments]
        self._first_rows = np.cumsum([0, *(segment.num_rows for segment in self.segments)])

    @property
    def num_documents(self) -> int:
        """Documents that are not deleted."""
        total = 0
        for segment in self.segments:
            if segment.live is None:
                total += segment.record.num_documents
            else:
                total += len(np.unique(segment.passages[segment.live, 0]))
        return total

    def neighbours(self, queries: Embeddings, k: int, *, min_score: float) -> Neighbours:
        """The best rows for each query, numbered through all segments."""
        sources = [
            Source(
                searcher=searcher,
                vectors=segment.vectors,
                first_row=int(first_row),
                num_rows=segment.num_rows,
                allowed=segment.live,
                owners=segment.passages[:, 0] if segment.has_split_documents else None,
            )
            for segment, searcher, first_row in zip(self.segments, self._searchers, self._first_rows, strict=False)
        ]
        return nearest(queries, sources, k, min_score=min_score)

    def hits(self, neighbours: Neighbours) -> list[list[Hit]]:
        """Turn rows into hits, with one read of the documents of each segment."""
        found: dict[int, Passage] = {}
        for segment, first_row in zip(self.segments, self._first_rows, strict=False):
            rows = neighbours.rows[(neighbours.rows >= first_row) & (neighbours.rows < first_row + segment.num_rows)]
            found.update(_passages(segment, int(first_row), np.unique(rows)))
        return [
            [_hit(*found[row], score) for score, row in zip(scores, rows, strict=True) if row >= 0]
            for scores, rows in zip(neighbours.scores.tolist(), neighbours.rows.tolist(), strict=True)
        ]

    def find(self, ids: Sequence[Id]) -> list[tuple[int, StoredDocument]]:
        """The live documents with the given ids, each with the number of its segment; the others are left out."""
        found = []
        for number, segment in enumerate(self.segments):
            for document in segment.rows.find(ids).values():
                if segment.live is None or segment.live[document.first_row]:
                    found.append((number, document))
        return found

    def taken(self, ids: Sequence[Id]) -> Iterable[Id]:
        """Those of the ids that live documents have."""
        return [document.id for _, document in self.find(ids)]


def open_snapshot(index: Path, *, exact: bool = False) -> Snapshot:
    """Open what is current.

    Raises:
        FolderError: no index there, or a damaged one.
    """
    for _ in range(OPEN_ATTEMPTS):
        pointer = _pointer(index)
        try:
            return Snapshot(index, *read_state(index), exact=exact)
        except (FolderError, FileNotFoundError):
            if _pointer(index) == pointer:
                raise
    raise FolderError(f"{index} changed {OPEN_ATTEMPTS} times while it was opened; try again")


def _pointer(index: Path) -> bytes:
    path = index / MANIFEST_NAME
    return path.read_bytes() if path.is_file() else b""


def _searcher(kind: IndexKind, segment: Segment) -> Searcher:
    if kind == "exact":
        return ExactSearcher(segment.vectors)
    from kdserve.search.faiss import FlatSearcher

    return FlatSearcher(segment.vectors)


def _passages(segment: Segment, first_row: int, rows: Rows) -> Iterable[tuple[int, Passage]]:
    passages = segment.passages[rows - first_row]
    documents = segment.rows.documents(np.unique(passages[:, 0]).tolist())
    for row, (doc, start, end) in zip(rows.tolist(), passages.tolist(), strict=True):
        yield row, (documents[doc], start, end)


def _hit(document: StoredDocument, start: int, end: int, score: float) -> Hit:
    return Hit(
        id=document.id,
        score=score,
        text=document.text[start:end],
        language=document.language,
        metadata=document.metadata,
        passage=(start, end) if document.num_rows > 1 else None,
    )
