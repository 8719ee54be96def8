"""Collections of Milvus in place of index folders: the option `--milvus` of build, add, update and search."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from kdserve.cli.console import progress_bars, say
from kdserve.cli.options import Device
from kdserve.errors import DataError

if TYPE_CHECKING:
    from kdserve.datatypes import Embedder
    from kdserve.search import Document
    from kdserve.search.documents.shards import SharedDocuments
    from kdserve.search.milvus import MilvusRetriever

Milvus = Annotated[
    str,
    typer.Option(help="A file of Milvus Lite, like notes.db, or http://HOST:PORT; the index is a collection there."),
]


def build_collection(
    address: str,
    collection: str,
    documents: Iterator[Document] | SharedDocuments,
    encoder: Embedder,
    *,
    name: str,
    passage_tokens: int,
    total: int,
) -> None:
    """Embed documents into a new collection with the encoder of that name, and say how to ask it."""
    from kdserve.search.milvus import MilvusRetriever

    _quieten()
    with progress_bars() as progress:
        made = MilvusRetriever.build(
            address,
            collection,
            documents,
            encoder,
            passage_tokens=passage_tokens,
            encoder_name=name,
            total=total,
            progress=progress,
        )
    say(f"{address}: {len(made)} documents in the collection {collection}")
    say(f'ask it: kdserve search {quote(collection)} --milvus {quote(address)} "your question"')
    made.close()


def open_collection(address: str, name: str, bundle: str, *, device: Device, threads: int | None) -> MilvusRetriever:
    """Open a collection with the encoder that it names, or `bundle`; None stands for all threads."""
    from kdserve.loading import open_model
    from kdserve.search.milvus import MilvusRetriever, encoder_of

    _quieten()
    model = bundle or encoder_of(address, name)
    if not model:
        raise DataError(f"{address} does not say which encoder made {name}; name it with --bundle")
    return MilvusRetriever.open(address, name, open_model(model, device=device, num_threads=threads))


def _quieten() -> None:
    """Keep the logs of Milvus's client and of Milvus Lite from standard error: what matters of them is raised."""
    for name in ("pymilvus", "milvus_lite", "grpc"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def refuse_in_milvus(**given: bool) -> None:
    """Refuse options that say how an index folder is laid out.

    Raises:
        DataError: one was given.
    """
    if chosen := [f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given]:
        raise DataError(f"{chosen[0]} is for index folders, not for Milvus; leave out one of the two")
