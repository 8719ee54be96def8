"""Vectors to files: .npy, JSON lines or Parquet. A file appears whole at the end, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from kdserve.cli.console import needs_extra, print_json
from kdserve.errors import DataError
from kdserve.staging import staged_file

if TYPE_CHECKING:
    from kdserve.datatypes import Embeddings
    from kdserve.search import Document

Write = Callable[[Sequence["Document"], "Embeddings"], None]


@contextmanager
def written(out: Path | None, dim: int) -> Iterator[Write]:
    """Yield what writes some documents' vectors: to `out`, or as JSON lines to standard output.

    Raises:
        DataError: its name ends with none of .npy, .jsonl and .parquet; else as `staged_file`.
    """
    if out is None:
        yield _print
        return
    opener = {".npy": _npy, ".jsonl": _jsonl, ".parquet": _parquet}.get(out.suffix.lower())
    if opener is None:
        raise DataError(f"{out} ends with none of .npy, .jsonl and .parquet; choose another name")
    with staged_file(out) as file, opener(file, dim) as write:
        yield write


def _print(documents: Sequence[Document], vectors: Embeddings) -> None:
    for record in _records(documents, vectors):
        print_json(record)


def _records(documents: Sequence[Document], vectors: Embeddings) -> Iterator[dict[str, object]]:
    for document, vector in zip(documents, vectors, strict=True):
        yield {"id": document.id, "text": document.text, "vector": [round(number, 7) for number in vector.tolist()]}


@contextmanager
def _jsonl(file: IO[bytes], _dim: int) -> Iterator[Write]:
    def write(documents: Sequence[Document], vectors: Embeddings) -> None:
        for record in _records(documents, vectors):
            file.write(json.dumps(record, ensure_ascii=False, sort_keys=True).encode() + b"\n")

    yield write


@contextmanager
def _npy(file: IO[bytes], dim: int) -> Iterator[Write]:
    """The header comes again at the end, with the number of rows; numpy leaves room for that."""
    num_rows = 0

    def head() -> None:
        facts = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, dim)}
        np.lib.format.write_array_header_1_0(file, facts)

    def write(_: Sequence[Document], vectors: Embeddings) -> None:
        nonlocal num_rows
        file.write(vectors.astype("<f4", copy=False).tobytes())
        num_rows += len(vectors)

    head()
    yield write
    file.seek(0)
    head()


@contextmanager
def _parquet(file: IO[bytes], dim: int) -> Iterator[Write]:
    with needs_extra("parquet"):
        import pyarrow
        import pyarrow.parquet
    vector = pyarrow.list_(pyarrow.float32(), dim)
    schema = pyarrow.schema([("id", pyarrow.string()), ("text", pyarrow.string()), ("vector", vector)])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:

        def write(documents: Sequence[Document], vectors: Embeddings) -> None:
            ids = [None if document.id is None else str(document.id) for document in documents]
            flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), dim)
            columns = [pyarrow.array(ids, pyarrow.string()), [document.text for document in documents], flat]
            writer.write_table(pyarrow.table(columns, schema=schema))

        yield write
