"""`kdserve embed`: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdserve.cli.console import flush, progress_bars, say
from kdserve.cli.documents import batches_of_stdin, open_source
from kdserve.cli.options import DEFAULT_BUNDLE, Device, FormatOption, Threads
from kdserve.errors import DataError

if TYPE_CHECKING:
    from kdserve.search import Document

CHUNK_TEXTS = 2048


def embed(
    texts: Annotated[
        Path, typer.Argument(help="A .txt, .tsv, .csv, .jsonl or .parquet file, a folder of texts, or - for stdin.")
    ] = Path("-"),
    out: Annotated[
        Path | None, typer.Option(help="A .npy, .jsonl or .parquet file to write; without it, JSON lines to stdout.")
    ] = None,
    bundle: Annotated[
        str, typer.Option(help="Bundle folder, a published student's name, or a teacher.")
    ] = DEFAULT_BUNDLE,
    role: Annotated[Literal["document", "query"], typer.Option(help="What the texts are.")] = "document",
    format: FormatOption = None,
    text_column: Annotated[str, typer.Option(help="Column or field that holds the text.")] = "text",
    id_column: Annotated[str, typer.Option(help="Column or field that holds the id.")] = "id",
    threads: Threads = None,
    device: Device = "cpu",
) -> None:
    """Embed texts: unit vectors in their order.

    JSON lines and Parquet have id, text and vector; .npy has the vectors alone, (N, D) float32.
    """
    from kdserve.cli.vectors import written
    from kdserve.lines import STDIN, show
    from kdserve.loading import open_model
    from kdserve.search.documents.chunks import chunks

    source = open_source(texts, format, text_column, id_column, "")
    encoder = open_model(bundle, device=device, num_threads=threads)
    encode = encoder.encode_query if role == "query" else encoder.encode_document
    total, num_texts = source.count(), 0
    with progress_bars() as progress, written(out, encoder.dim) as write:
        for chunk in _arrived() if texts == STDIN and source.format == "txt" else chunks(source.read(), CHUNK_TEXTS):
            write(chunk, encode([document.text for document in chunk]))
            flush()
            num_texts += len(chunk)
            progress("embed", num_texts, total)
        if not num_texts:
            raise DataError(f"{show(texts)} holds no text; give texts")
    say(f"{num_texts} vectors of {encoder.dim} numbers" + (f" in {out}" if out else ""))


def _arrived() -> Iterator[list[Document]]:
    from kdserve.search import Document

    return ([Document(text=line) for line in lines] for lines in batches_of_stdin(CHUNK_TEXTS))
