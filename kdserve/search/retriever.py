"""The retriever: build an index, open it, search it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

from kdserve.datatypes import Embedder, Embeddings, Hit, Progress, no_progress, require_embedder, require_texts
from kdserve.errors import DataError
from kdserve.search.backends.kinds import KindOrAuto, Requirements
from kdserve.search.backends.topk import Neighbours
from kdserve.search.backends.vectors import Precision, require_unit_rows
from kdserve.search.documents.document import Document, Id, NewMetadata
from kdserve.search.documents.passages import choose_window
from kdserve.search.documents.shards import SharedDocuments
from kdserve.search.index.build import Ingest, build_index
from kdserve.search.index.changes import add_documents, compact_index, delete_documents
from kdserve.search.index.compatibility import require_compatible, source_of, teacher_of
from kdserve.search.index.generation import IndexState
from kdserve.search.index.snapshot import Snapshot, open_for
from kdserve.search.protocol import RetrieverProtocol
from kdserve.search.query.ranking import SearchOptions, answer, search_and_rerank


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """How an index is made.

    `kind`, `recall` and `memory_bytes` are its `Requirements`; "auto" chooses by the number of rows and the others.
    Documents longer than `passage_tokens` are split into overlapping passages; 0 stands for 256, or as many as the
    encoder reads where it reads fewer. An encoder that cannot count tokens leaves them whole. A document is found by
    its best passage.
    `lexical` also keeps the words of the documents, for search by meaning and words together.
    `sentences` also keeps a vector of each sentence, in int8: hits say which is nearest to the query, and are ordered
    by it too (`rerank`). Where passages have several, that takes about twice the time, and more space than they do.
    `encoder_name` is recorded, so that `kdserve search` finds the encoder again: a published name or a bundle folder;
    "" stands for what an `Encoder` was loaded from.
    `resume_key` stands for the same documents in the same order; a killed build with the same key, encoder and options
    goes on, and one that was done stays as it is.
    `total` is the number of documents, 0 where unknown; it only serves the progress.

    Raises:
        DataError: no such precision.
    """

    kind: KindOrAuto = "auto"
    recall: float = 0.0
    memory_bytes: int = 0
    precision: Precision = "float32"
    passage_tokens: int = 0
    lexical: bool = False
    sentences: bool = True
    encoder_name: str = ""
    resume_key: str = ""
    total: int = 0

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            choices = ", ".join(get_args(Precision))
            raise DataError(f"there is no precision {self.precision!r} of vectors; choose one of {choices}")


class Retriever(RetrieverProtocol):
    """An index with the encoder that it was built with. Searching is safe from several threads.

    What it shows is the state at opening; `refresh` looks for a newer one. Pickled or copied, it is opened again.
    """

    def __init__(self, folder: Path, encoder: Embedder, snapshot: Snapshot, *, exact: bool) -> None:
        self.folder, self.encoder = folder, encoder
        self._snapshot, self._exact = snapshot, exact

    @classmethod
    def build(
        cls,
        folder: str | Path,
        documents: Iterable[Document] | SharedDocuments,
        encoder: Embedder,
        *,
        query_encoder: Embedder | None = None,
        options: BuildOptions = BuildOptions(),
        progress: Progress = no_progress,
    ) -> Retriever:
        """Embed documents, write them to a new index folder, and open it. Memory does not grow with the documents.

        With a `query_encoder`, a teacher or student of `encoder`, the recall of its queries is measured and recorded.
        `SharedDocuments` are read and embedded by workers, as `cluster.RayWorkers` are; else `encoder` does it here.

        Raises:
            FolderError: the folder exists and is not what this would build, or cannot be written.
            DataError: no documents, two with the same id, or no kind that fits into the memory.
            FidelityError: no kind that fits reaches the recall.
            EncodeError: the encoder gave a vector that is no unit vector, or workers were lost ever again.
        """
        require_embedder(encoder)
        state = IndexState(
            generation=1,
            kind="exact",
            asked=Requirements(kind=options.kind, recall=options.recall, memory_bytes=options.memory_bytes),
            precision=options.precision,
            dim=encoder.dim,
            encoder=encoder.fingerprint,
            encoder_name=options.encoder_name or source_of(encoder),
            next_id=0,
            segments=(),
            window=choose_window(encoder, options.passage_tokens),
            lexical=options.lexical,
            sentences=options.sentences,
            teacher=teacher_of(encoder),
        )
        if query_encoder is not None:
            require_compatible(Path(folder), state.encoder, state.teacher, query_encoder)
        ingest = Ingest(encoder=encoder, total=options.total, progress=progress)
        build_index(Path(folder), documents, state, ingest, resume_key=options.resume_key, query_encoder=query_encoder)
        return cls.open(folder, encoder)

    @classmethod
    def open(cls, folder: str | Path, encoder: Embedder, *, exact: bool = False) -> Retriever:
        """Open an index with the encoder that it was built with, or that one's teacher or student.

        `exact` searches with numpy, whatever the kind of the index.

        Raises:
            FolderError: no index, a damaged one, or one that none of these encoders built.
        """
        require_embedder(encoder)
        return cls(Path(folder), encoder, open_for(Path(folder), encoder, exact=exact), exact=exact)

    def __reduce__(self) -> tuple[Callable[..., Retriever], tuple[Path, Embedder, bool]]:
        return _open_again, (self.folder.absolute(), self.encoder, self._exact)

    def __len__(self) -> int:
        """The number of documents."""
        return self._snapshot.num_documents

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        where: str = "",
        min_score: float = -np.inf,
        lexical: bool = False,
        per_language: int = 0,
        rerank: int | None = None,
    ) -> list[Hit]:
        """The `k` best documents for one query, best first; equal scores in the order of insertion.

        A blank query has none.
        `where` lets only documents pass whose metadata fulfil it: `lang == "de" and year >= 2000`; see `filters`.
        `lexical` ranks by meaning and by words (BM25) and fuses both by reciprocal rank; scores stay those of meaning.
        Words are taken from the first 10,000 characters of a query.
        `per_language` takes at most so many documents of each language.
        `rerank` orders so many passages anew, `k` at least, by the mean of their score and that of their sentence
        nearest to the query, which is their score then: better hits, above all across languages, for the time to embed
        these sentences. A document is found by the passage that is its best then. An index that keeps sentences spares
        that time, and orders twice `k` passages so, 100 at least, unless it is told otherwise; 0 is none. Where
        sentences are embedded for it, so many hits are ordered, with other passages of their documents that are among
        as many nearest ones, and `min_score` is of the passages.

        Raises:
            DataError: `k` is below 1, the index has no words, or `where` cannot be read, names an unknown field or asks
                a field for what it never holds.
            FolderError: a file of the index is damaged, or was overwritten in its place.
        """
        return self.search_batch(
            [query], k, where=where, min_score=min_score, lexical=lexical, per_language=per_language, rerank=rerank
        )[0]

    def search_batch(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        where: str = "",
        min_score: float = -np.inf,
        lexical: bool = False,
        per_language: int = 0,
        rerank: int | None = None,
    ) -> list[list[Hit]]:
        """The `k` best documents for each query, as `search`.

        Raises:
            TypeError: `queries` is a bare str.
            DataError: as `search`.
        """
        options = SearchOptions(
            k=k, where=where, min_score=min_score, lexical=lexical, per_language=per_language, rerank=rerank
        )
        texts, snapshot = require_texts(queries), self._snapshot
        options = options.settled(keeps_sentences=snapshot.keeps_sentences)
        vectors = require_unit_rows(self.encoder.encode_query(texts), len(texts), self.encoder.dim)
        find = partial(answer, snapshot, texts, vectors)
        return find(options) if snapshot.keeps_sentences else search_and_rerank(vectors, options, self.encoder, find)

    def search_vectors(
        self, vectors: Embeddings, k: int = 10, *, where: str = "", min_score: float = -np.inf
    ) -> Neighbours:
        """The `k` best rows for each vector (B, D): scores and row numbers, without reading any text.

        Raises:
            DataError: as `search`, or the vectors are not of that form.
        """
        options = SearchOptions(k=k, where=where, min_score=min_score)
        given = np.asarray(vectors, np.float32)
        if given.ndim != 2 or given.shape[1] != self.encoder.dim or not np.isfinite(given).all():
            shape = " × ".join(map(str, given.shape))
            raise DataError(f"got vectors of {shape}; give finite numbers, a row of {self.encoder.dim} for each query")
        return self._snapshot.neighbours(given, options.k, where=where, min_score=min_score)

    def texts_among(self, texts: Iterable[str]) -> set[str]:
        """Which of some texts documents have; this reads all."""
        return self._snapshot.texts_among(require_texts(texts))

    def add(self, documents: Iterable[Document], *, total: int = 0, progress: Progress = no_progress) -> None:
        """Add documents, in one commit.

        Raises:
            DataError: no documents, or an id that is there already; the index is then as it was.
            FolderError: another process is writing, or the folder cannot be written.
        """
        self._change(documents, update=False, total=total, progress=progress)

    def update(
        self, documents: Iterable[Document | NewMetadata], *, total: int = 0, progress: Progress = no_progress
    ) -> None:
        """Put documents in the place of those with the same ids, in one commit; the others are added.

        New metadata changes the fields that it names of the document with its id, whose text and vectors stay.

        Raises:
            DataError: no documents, an id twice, or new metadata for none; the index is then as it was.
            FolderError: another process is writing, or the folder cannot be written.
        """
        self._change(documents, update=True, total=total, progress=progress)

    def delete(self, ids: Sequence[Id]) -> None:
        """Delete the documents with these ids, in one commit.

        Raises:
            TypeError: `ids` is a bare str.
            DataError: an id that is not there; nothing is deleted then.
            FolderError: another process is writing, or the folder cannot be written.
        """
        if isinstance(ids, str):
            raise TypeError("expected a sequence of ids, got one str; put it into a list")
        self._snapshot = delete_documents(self.folder, list(ids), reopen=self._reopen)

    def compact(self, *, requirements: Requirements | None = None, progress: Progress = no_progress) -> None:
        """Rewrite the index as one segment, without what was deleted; its kind is chosen anew.

        Without `requirements`, those stay that the index was built with.
        """
        self._snapshot = compact_index(self.folder, requirements=requirements, progress=progress, reopen=self._reopen)

    def refresh(self) -> bool:
        """Look for a newer state of the index, or another index in its place, and take it; say whether there was one.

        Raises:
            FolderError: it is gone or damaged, or of another encoder; what was there is searched on.
        """
        snapshot = self._reopen(self.folder)
        newer = snapshot.manifest != self._snapshot.manifest
        if newer:
            self._snapshot = snapshot
        return newer

    def _change(
        self, documents: Iterable[Document | NewMetadata], *, update: bool, total: int, progress: Progress
    ) -> None:
        ingest = Ingest(encoder=self.encoder, total=total, progress=progress)
        self._snapshot = add_documents(self.folder, documents, ingest, update=update, reopen=self._reopen)

    def _reopen(self, folder: Path) -> Snapshot:
        return open_for(folder, self.encoder, exact=self._exact)


def _open_again(folder: Path, encoder: Embedder, exact: bool) -> Retriever:
    return Retriever.open(folder, encoder, exact=exact)
