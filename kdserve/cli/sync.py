"""`kdserve index sync`: an index that follows a folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdserve.cli.console import needs_extra, progress_bars, say
from kdserve.cli.documents import open_source, report_skipped, with_languages
from kdserve.cli.options import Device, Fields, Threads
from kdserve.cli.search import OtherBundle, open_retriever
from kdserve.errors import KdserveError

if TYPE_CHECKING:
    from kdserve.search import Retriever, Source


def register(index: typer.Typer) -> None:
    """Add the command to `kdserve index`."""
    index.command("sync")(sync)


def sync(
    folder: Annotated[Path, typer.Argument(help="An index folder.")],
    texts: Annotated[Path, typer.Argument(help="The folder that the index shall follow.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and follow every change until Ctrl-C.")] = False,
    fields: Fields = None,
    languages_by: Annotated[str, typer.Option(help="A classifier that names languages, like kdserve-langid.")] = "",
    bundle: OtherBundle = "",
    threads: Threads = None,
    device: Device = "cpu",
) -> None:
    """Add, update and delete documents so that the index holds what a folder holds, by path and content.

    Documents that came another way stay. Files that cannot be read are told, and keep the document that they had.
    """
    retriever = open_retriever(folder, bundle, device=device, threads=threads)
    source = open_source(texts, "folder", "text", "id", "", fields)
    _sync(retriever, source, languages_by, threads)
    if not watch:
        return
    with needs_extra("documents"):
        import watchfiles
    say(f"following {texts}; Ctrl-C ends")
    for _ in watchfiles.watch(texts, raise_interrupt=True):
        try:
            _sync(retriever, source, languages_by, threads)
        except KdserveError as error:  # the next change may mend it
            say(f"kdserve: {error}")


def _sync(retriever: Retriever, source: Source, languages_by: str, threads: int | None) -> None:
    from kdserve.search import sync_folder

    prepare = partial(with_languages, languages_by=languages_by, threads=threads)
    with progress_bars() as progress:
        done = sync_folder(retriever, source, prepare=prepare, progress=progress)
    report_skipped(source)
    say(f"{retriever.folder}: {done.written} written, {done.deleted} deleted, {done.unchanged} unchanged")
