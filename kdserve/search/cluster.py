"""Embed documents on a Ray cluster; the index is written here, the same as by a build on one machine.

Chunks of documents wait in Ray's object store, which spills to disk, pass through Ray Data in the order in which they
came, and come back with their vectors. Ray starts on this machine where no cluster is named (`RAY_ADDRESS`, or
`ray.init` before).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdserve.datatypes import Embedder
from kdserve.errors import DataError, MissingExtraError
from kdserve.search.documents.document import Document
from kdserve.search.documents.embedding import Embedded, chunks_by_size, embed_chunk

if TYPE_CHECKING:
    from kdserve.search.index.build import Embed

WORKER_CPUS = 0.5
"""Share of a CPU that a worker claims. Ray Data needs some for itself; the model takes what it finds."""


def embed_on_ray(load: Callable[[], Embedder], *, num_workers: int) -> Embed:
    """An `embed` for `Retriever.build`: `load` opens the encoder, once on each of `num_workers` workers.

    Raises:
        MissingExtraError: Ray is not installed.
        DataError: fewer than one worker.
    """
    try:
        import pyarrow
        import ray
        import ray.data
    except ImportError as missing:
        raise MissingExtraError("ray[data]", "cluster") from missing
    if num_workers < 1:
        raise DataError(f"there cannot be {num_workers} workers; take 1 or more")

    def embed(documents: Iterable[Document], window: int) -> Iterator[Embedded]:
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # its own progress would stand in the middle of ours
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        waiting = [ray.put(pyarrow.table({"chunk": [_packed(chunk)]})) for chunk in chunks_by_size(documents)]
        if not waiting:
            return
        embedded = ray.data.from_arrow_refs(waiting).map_batches(
            _Worker,
            batch_size=None,
            fn_constructor_args=(load, window),
            compute=ray.data.ActorPoolStrategy(size=num_workers),
            num_cpus=WORKER_CPUS,
        )
        yield from (_received(row) for row in embedded.iter_rows())

    return embed


class _Worker:
    """Holds the encoder on one worker; takes and gives batches of one chunk, as columns."""

    def __init__(self, load: Callable[[], Embedder], window: int) -> None:
        self._encoder, self._window = load(), window

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        answers: dict[str, list[Any]] = {"chunk": [], "spans": [], "vectors": [], "dim": []}
        for chunk in batch["chunk"]:
            embedded = embed_chunk(_unpacked(chunk), self._encoder, window=self._window)
            answers["chunk"].append(chunk)
            answers["spans"].append(json.dumps(embedded.spans))
            answers["vectors"].append(embedded.vectors.tobytes())
            answers["dim"].append(self._encoder.dim)
        return answers


def _received(row: Mapping[str, Any]) -> Embedded:
    vectors = np.frombuffer(row["vectors"], np.float32).reshape(-1, row["dim"])
    return Embedded(documents=_unpacked(row["chunk"]), spans=json.loads(row["spans"]), vectors=vectors)


def _packed(documents: Sequence[Document]) -> str:
    return json.dumps([[d.text, d.id, d.language, dict(d.metadata)] for d in documents])


def _unpacked(chunk: str) -> list[Document]:
    return [
        Document(text=text, id=id_, language=language, metadata=metadata)
        for text, id_, language, metadata in json.loads(chunk)
    ]
