"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import typer

DEFAULT_BUNDLE = "kdserve-static"
"""What embeds where no bundle is named: the quickest of those that ship."""
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the model; default: all there are.")]
FormatOption = Annotated[
    Literal["txt", "tsv", "csv", "jsonl", "parquet", "document", "folder"] | None,
    typer.Option(help="Format of the texts, where the file's name does not tell."),
]
Fields = Annotated[
    str | None,
    typer.Option(help="Fields to keep beside text, id and language: title,year; '' keeps none. Default: all."),
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the model runs.")]


def codes(given: str) -> list[str]:
    """The languages of an option: de,fr."""
    return [code for code in map(str.strip, given.split(",")) if code]


def refuse_unread(what: str, options: Mapping[str, object]) -> None:
    """Refuse options that are given and would not be looked at."""
    if given := ", ".join(name for name, value in options.items() if value):
        raise typer.BadParameter(f"{what}, to which this says nothing; leave it out", param_hint=given)
