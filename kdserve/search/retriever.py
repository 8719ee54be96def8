"""The retriever: build an index, open it, search it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdserve.datatypes import Embedder, Embeddings, Hit, Progress, no_progress
from kdserve.errors import DataError, FolderError
from kdserve.search.build import Ingest, build_index
from kdserve.search.documents import Document
from kdserve.search.generation import IndexKind, IndexState
from kdserve.search.snapshot import Snapshot, open_snapshot
from kdserve.search.topk import Neighbours
from kdserve.search.vectors import Precision, require_unit_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """How an index is made.

    `encoder_name` is recorded, so that `kdserve search` finds the encoder again: a published name or a bundle folder.
    `resume_key` stands for the same documents in the same order; a killed build with the same key goes on.
    `total` is the number of documents, 0 where unknown; it only serves the progress.
    """

    kind: IndexKind = "exact"
    precision: Precision = "float32"
    encoder_name: str = ""
    resume_key: str = ""
    total: int = 0


class Retriever:
    """An index with the encoder that it was built with. Searching is safe from several threads.

    What it shows is the state at opening; `refresh` looks for a newer one.
    """

    def __init__(self, folder: Path, encoder: Embedder, snapshot: Snapshot, *, exact: bool) -> None:
        self.folder, self.encoder = folder, encoder
        self._snapshot, self._exact = snapshot, exact

    @classmethod
    def build(
        cls,
        folder: str | Path,
        documents: Iterable[Document],
        encoder: Embedder,
        *,
        options: BuildOptions = BuildOptions(),
        progress: Progress = no_progress,
    ) -> Retriever:
        """Embed documents, write them to a new index folder, and open it. Memory does not grow with the documents.

        Raises:
            FolderError: the folder exists, or cannot be written.
            DataError: no documents, or two with the same id.
            EncodeError: the encoder gave a vector that is no unit vector.
        """
        state = IndexState(
            generation=1,
            kind=options.kind,
            precision=options.precision,
            dim=encoder.dim,
            encoder=encoder.fingerprint,
            encoder_name=options.encoder_name,
            next_id=0,
            segments=(),
        )
        ingest = Ingest(encoder=encoder, taken=lambda ids: (), total=options.total, progress=progress)
        build_index(Path(folder), documents, state, ingest, resume_key=options.resume_key)
        return cls.open(folder, encoder)

    @classmethod
    def open(cls, folder: str | Path, encoder: Embedder, *, exact: bool = False) -> Retriever:
        """Open an index with the encoder that it was built with; `exact` searches with numpy, whatever its kind.

        Raises:
            FolderError: no index, a damaged one, or one built with another encoder.
        """
        snapshot = open_snapshot(Path(folder), exact=exact)
        if snapshot.state.encoder != encoder.fingerprint:
            raise FolderError(
                f"{folder} was built with encoder {snapshot.state.encoder[:12]}, this one is "
                f"{encoder.fingerprint[:12]}; name the bundle that it was built with, or build the index again"
            )
        return cls(Path(folder), encoder, snapshot, exact=exact)

    def __len__(self) -> int:
        """The number of documents."""
        return self._snapshot.num_documents

    def search(self, query: str, k: int = 10, *, min_score: float = -np.inf) -> list[Hit]:
        """The `k` best documents for one query, best first; equal scores in the order of insertion."""
        return self.search_batch([query], k, min_score=min_score)[0]

    def search_batch(self, queries: Sequence[str], k: int = 10, *, min_score: float = -np.inf) -> list[list[Hit]]:
        """The `k` best documents for each query.

        Raises:
            TypeError: `queries` is a bare str.
            DataError: `k` is below 1.
        """
        vectors = require_unit_rows(self.encoder.encode_query(queries), len(queries), self.encoder.dim)
        return self._snapshot.hits(self.search_vectors(vectors, k, min_score=min_score))

    def search_vectors(self, vectors: Embeddings, k: int = 10, *, min_score: float = -np.inf) -> Neighbours:
        """The `k` best rows for each vector (B, D): scores and row numbers, without reading any text."""
        if k < 1:
            raise DataError(f"k is {k}; ask for 1 hit or more")
        return self._snapshot.neighbours(vectors, k, min_score=min_score)

    def refresh(self) -> bool:
        """Look for a newer state of the index and take it; say whether there was one."""
        snapshot = open_snapshot(self.folder, exact=self._exact)
        newer = snapshot.state.generation != self._snapshot.state.generation
        if newer:
            self._snapshot = snapshot
        return newer
