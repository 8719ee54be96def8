"""One generation of an index, opened: what a reader sees until it looks again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Embedder, Embeddings, Hit, Sentence
from kdserve.disk import read_error
from kdserve.errors import FolderError
from kdserve.manifest import MANIFEST_NAME, Manifest
from kdserve.search.backends.exact import ExactSearcher
from kdserve.search.backends.kinds import KINDS
from kdserve.search.backends.topk import Mask, Neighbours, Scores, SearchedSegment, Searcher, nearest
from kdserve.search.backends.vectors import Rows
from kdserve.search.documents.document import Id
from kdserve.search.filters.expression import parse_filter
from kdserve.search.filters.sql import as_sql
from kdserve.search.index.compatibility import require_compatible
from kdserve.search.index.document_file import StoredDocument
from kdserve.search.index.fields import require_fields
from kdserve.search.index.generation import IndexState, read_state, verify_quick
from kdserve.search.index.segment import APPROXIMATE, PASSAGES, ROWS, VECTORS, Segment
from kdserve.search.index.sentences import SENTENCE_VECTORS, SENTENCES

Passage = tuple[StoredDocument, int, int]
MASKS_KEPT = 32
"""Filters whose rows are remembered; each takes a byte a row."""
FILTERED_EXACT_ROWS = 50_000
_STAY_OPEN = (VECTORS, PASSAGES, ROWS, APPROXIMATE, SENTENCES, SENTENCE_VECTORS)
"""Files whose inode no other file is given meanwhile, as one that was read and closed may be."""
OPEN_S = 30.0
"""How long the pointer may go on changing under a reader that is just opening."""
Read = TypeVar("Read")


class Snapshot:
    """The segments of one generation with their searchers. Every file is verified, vectors when first touched."""

    def __init__(self, index: Path, manifest: Manifest, state: IndexState, *, exact: bool) -> None:
        stay_open = [name for name in manifest.files if Path(name).name in _STAY_OPEN]
        self._opened = {index / name: _state_of(index / name) for name in stay_open}
        verify_quick(index, manifest)
        self.manifest, self.state = manifest, state
        self.segments = [Segment(index, record, dim=state.dim, precision=state.precision) for record in state.segments]
        self._searchers = [_searcher(segment, state, exact=exact) for segment in self.segments]
        self._lock = Lock()
        self._masks: dict[str, list[Mask]] = {}
        self._first_rows = np.cumsum([0, *(segment.num_rows for segment in self.segments)])

    @property
    def num_rows(self) -> int:
        """Passages, deleted ones too."""
        return int(self._first_rows[-1])

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

    @property
    def keeps_sentences(self) -> bool:
        """Whether hits may be ordered by sentences: some passage has several, whose vectors are here."""
        return any(segment.sentences is not None for segment in self.segments)

    def neighbours(
        self, queries: Embeddings, k: int, *, min_score: float, where: str, folded: bool = True
    ) -> Neighbours:
        """The best rows for each query, numbered through all segments, among those that `where` lets pass; `folded`,
        one row a document.
        """
        self._require_untouched()
        allowed = self._allowed(where) if where else [segment.live for segment in self.segments]
        sources = [
            SearchedSegment(
                searcher=_for_filter(searcher, segment, mask),
                vectors=segment.vectors,
                first_row=int(first_row),
                num_rows=segment.num_rows,
                allowed=mask,
                owners=segment.passages[:, 0] if folded and segment.has_split_documents else None,
            )
            for segment, searcher, first_row, mask in zip(
                self.segments, self._searchers, self._first_rows[:-1], allowed, strict=True
            )
        ]
        return nearest(queries, sources, k, min_score=min_score)

    def ranked_by_words(
        self, text: str, vector: Embeddings, k: int, *, where: str, by_sentences: bool = False
    ) -> Neighbours:
        """The best row of each of the `k` documents that BM25 ranks first for a text, in that order, for one query.

        Each segment counts its own words, so that ranks over several segments are nearly those of one.
        """
        allowed = self._allowed(where) if where else [segment.live for segment in self.segments]
        found = []
        for segment, first_row, mask in zip(self.segments, self._first_rows[:-1], allowed, strict=True):
            documents = segment.first_by_words(text, k, mask)
            best = segment.best_rows([doc for _, doc in documents], vector, by_sentences=by_sentences)
            found += [(bm25, *row, int(first_row)) for (bm25, _), row in zip(documents, best, strict=True)]
        found.sort(key=lambda entry: (-entry[0], entry[1] + entry[3]))
        return Neighbours(
            scores=np.array([[score for _, _, score, _ in found[:k]]], np.float32),
            rows=np.array([[row + first_row for _, row, _, first_row in found[:k]]], np.int64),
        )

    def owners(self, rows: Rows) -> Rows:
        """A number for the document of each row: what its passages share."""
        owners = rows.copy()
        for segment, first_row in zip(self.segments, self._first_rows[:-1].tolist(), strict=True):
            if segment.has_split_documents:
                inside = (rows >= first_row) & (rows < first_row + segment.num_rows)
                owners[inside] = first_row + segment.passages[rows[inside] - first_row, 0]
        return owners

    def languages(self, rows: Rows) -> npt.NDArray[np.int32]:
        """A number for the language of each row's document, without reading its text."""
        codes = np.empty(len(rows), np.int32)
        for segment, first_row, own in zip(self.segments, self._first_rows[:-1], self._language_codes, strict=True):
            inside = (rows >= first_row) & (rows < first_row + segment.num_rows)
            codes[inside] = own[segment.passages[rows[inside] - first_row, 0]]
        return codes

    @cached_property
    def _language_codes(self) -> list[npt.NDArray[np.int32]]:
        known: dict[str | None, int] = {}
        return [segment.stored.language_codes(known) for segment in self.segments]

    def hits(self, neighbours: Neighbours, queries: Embeddings) -> list[list[Hit]]:
        """Turn the rows that were found for some queries into hits, with one read of the documents of each segment."""
        found: dict[int, Passage] = {}
        for segment, first_row in zip(self.segments, self._first_rows[:-1], strict=True):
            rows = neighbours.rows[(neighbours.rows >= first_row) & (neighbours.rows < first_row + segment.num_rows)]
            found.update(_passages(segment, int(first_row), np.unique(rows)))
        return [
            [self._hit(*found[row], score, best.get(row)) for score, row in zip(scores, rows, strict=True) if row >= 0]
            for scores, rows, best in zip(
                neighbours.scores.tolist(),
                neighbours.rows.tolist(),
                map(self._nearest_sentences, neighbours.rows, queries),
                strict=True,
            )
        ]

    def weighed(self, rows: Rows, scores: Scores, query: Embeddings) -> Scores:
        """As `Segment.weighed`, of rows that are numbered through all segments."""
        means = scores.copy()
        for segment, first_row in zip(self.segments, self._first_rows[:-1].tolist(), strict=True):
            inside = (rows >= first_row) & (rows < first_row + segment.num_rows)
            means[inside] = segment.weighed(rows[inside] - first_row, scores[inside], query)
        return means

    def _nearest_sentences(self, rows: Rows, query: Embeddings) -> dict[int, Sentence]:
        """By row, the sentence that is nearest to a query (D,), of rows that have several."""
        found: dict[int, Sentence] = {}
        for segment, first_row in zip(self.segments, self._first_rows[:-1].tolist(), strict=True):
            if segment.sentences is not None:
                own = rows[(rows >= first_row) & (rows < first_row + segment.num_rows)]
                nearest = segment.sentences.nearest(own - first_row, query)
                found.update((row, best) for row, best in zip(own.tolist(), nearest, strict=True) if best)
        return found

    def _hit(self, document: StoredDocument, start: int, end: int, score: float, sentence: Sentence | None) -> Hit:
        text = document.text[start:end]
        if sentence is None and self.state.sentences:  # it is one
            sentence = Sentence(start=len(text) - len(text.lstrip()), end=len(text.rstrip()), score=score)
        return Hit(
            id=document.id,
            score=score,
            text=text,
            language=document.language,
            metadata=document.metadata,
            passage=(start, end) if document.num_rows > 1 else None,
            sentence=sentence,
        )

    def find(self, ids: Sequence[Id]) -> list[tuple[int, StoredDocument]]:
        """The live documents with the given ids, each with the number of its segment; the others are left out."""
        found = []
        for number, segment in enumerate(self.segments):
            for document in segment.stored.find(ids).values():
                if segment.is_live(document):
                    found.append((number, document))
        return found

    def texts_among(self, texts: Sequence[str]) -> set[str]:
        """Which of some texts documents have, deleted ones too."""
        return set().union(*(segment.stored.texts_among(texts) for segment in self.segments))

    def _allowed(self, where: str) -> list[Mask]:
        """A mask over the rows of each segment: those that are live and pass the filter."""
        known_masks = self._masks.get(where)
        if known_masks is not None:
            return known_masks
        condition = parse_filter(where)
        require_fields(condition, self.segments)
        masks = []
        for segment in self.segments:
            mask = segment.rows_of(segment.stored.select(*as_sql(condition, segment.stored.fields)))
            masks.append(mask if segment.live is None else mask & segment.live)
        with self._lock:
            if len(self._masks) >= MASKS_KEPT:
                self._masks.pop(next(iter(self._masks)))
            self._masks[where] = masks
        return masks

    def _require_untouched(self) -> None:
        """Refuse to answer from a file that was written to after it was opened; its size is checked before its map."""
        for path, known in self._opened.items():
            try:
                now = _state_of(path)
            except OSError as error:
                raise read_error(path, error) from error
            if now != known and now[0] == known[0]:
                raise FolderError(
                    f"{path} was overwritten while it was open; restore the index, and replace files by renaming"
                )


def open_snapshot(index: str | Path, *, exact: bool = False) -> Snapshot:
    """Open what is current.

    Raises:
        FolderError: no index there, or a damaged one.
    """
    index = Path(index)
    return read_current(index, lambda manifest, state: Snapshot(index, manifest, state, exact=exact))


def open_for(index: Path, encoder: Embedder, *, exact: bool = False) -> Snapshot:
    """Open what is current for the queries of an encoder: another index may have come to where one was.

    Raises:
        FolderError: as `open_snapshot`, or neither the encoder, nor its teacher or a student of it, built the index.
    """
    snapshot = open_snapshot(index, exact=exact)
    require_compatible(index, snapshot.state.encoder, snapshot.state.teacher, encoder)
    return snapshot


def read_current(index: Path, read: Callable[[Manifest, IndexState], Read]) -> Read:
    """What `read` makes of the current generation; if another one is committed meanwhile, of that one.

    Raises:
        FolderError: no index there, a damaged one, files that cannot be read, or no moment without a commit.
    """
    until = time.monotonic() + OPEN_S
    while True:
        pointer = _pointer(index)
        try:
            return read(*read_state(index))
        except (FolderError, OSError) as error:
            if _pointer(index) != pointer and time.monotonic() < until:
                continue
            if isinstance(error, OSError):
                raise read_error(Path(error.filename or index), error) from error
            raise


def _pointer(index: Path) -> bytes:
    """The bytes of the pointer; none where there is none, as between two folders that are renamed."""
    path = index / MANIFEST_NAME
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise read_error(path, error) from error


def _state_of(path: Path) -> tuple[int, int, int]:
    """Inode, size and time of change; zeros for a file that is gone, which a map outlives."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


def _searcher(segment: Segment, state: IndexState, *, exact: bool) -> Searcher:
    if exact or state.kind == "exact":
        return ExactSearcher(segment.vectors)
    from kdserve.search.backends.faiss import ApproximateSearcher, FlatSearcher

    if not segment.record.approximate or state.tuning is None:
        return FlatSearcher(segment.vectors)
    return ApproximateSearcher(
        segment.folder / APPROXIMATE,
        segment.vectors,
        kind=KINDS[state.kind],
        effort=state.tuning.effort,
        candidates=state.tuning.candidates,
    )


def _for_filter(searcher: Searcher, segment: Segment, mask: Mask | None) -> Searcher:
    """An exact searcher where few rows are allowed: that is right, and no slower than to look for them in a graph."""
    few = mask is not None and mask.sum() <= FILTERED_EXACT_ROWS
    return ExactSearcher(segment.vectors) if few and not searcher.exact else searcher


def _passages(segment: Segment, first_row: int, rows: Rows) -> Iterable[tuple[int, Passage]]:
    passages = segment.passages[rows - first_row]
    documents = segment.stored.documents(np.unique(passages[:, 0]).tolist())
    for row, (doc, start, end) in zip(rows.tolist(), passages.tolist(), strict=True):
        yield row, (documents[doc], start, end)
