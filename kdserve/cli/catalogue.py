"""`kdserve models`: what there is to open."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdserve.cli.console import print_json, print_line, say
from kdserve.errors import FolderError

if TYPE_CHECKING:
    from kdserve.runtime.catalogue import CatalogueEntry

_COLUMNS = ("name", "MB", "languages", "tokens", "for", "quality", "folder")


def models(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="List the bundles in these folders too, down to two levels.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a model.")] = False,
) -> None:
    """List the models that ship with this installation, and those in FOLDERS.

    Quality is in points of 100, mean over languages: questions that find their paragraph in their own language and
    across eleven (half of XQuAD-R), and what the model's export recorded. A model's card says more.
    """
    entries = _entries(folders or [])
    if json:
        for entry in entries:
            print_json({**asdict(entry), "folder": str(entry.folder)})
        return
    rows = [_COLUMNS, *(_row(entry) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _entries(folders: list[Path]) -> list[CatalogueEntry]:
    from kdserve.manifest import kind_of
    from kdserve.runtime.catalogue import KINDS, describe_bundle, manifests_in, published_entries

    entries = published_entries()
    known = {entry.folder.resolve() for entry in entries}
    for folder in (found for given in folders for found in manifests_in(given)):
        try:
            kind = kind_of(folder)
            if kind in KINDS and folder.resolve() not in known:
                entries.append(describe_bundle(folder, kind=kind))
                known.add(folder.resolve())
        except FolderError as error:  # the others are still worth listing
            say(f"left out: {error}")
    return entries


def _row(entry: CatalogueEntry) -> tuple[str, ...]:
    weak = f" + {len(entry.weak_languages)} weak" if entry.weak_languages else ""
    return (
        entry.name,
        f"{entry.size_bytes / 1e6:.1f}",
        f"{len(entry.languages)}{weak}",
        str(entry.max_tokens),
        _purpose(entry),
        ", ".join(f"{name} {figure:.1f}" for name, figure in entry.quality.items()) or "not recorded",
        str(entry.folder),
    )


def _purpose(entry: CatalogueEntry) -> str:
    if entry.kind == "classifier":
        return f"naming one of {len(entry.labels)} labels"
    if entry.kind == "translator":
        return "summaries" if entry.task == "summarise" else f"translation into {', '.join(entry.targets)}"
    return "vectors, fastest" if entry.family == "static" else "vectors, word order too"
