"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

DEFAULT_BUNDLE = "kdserve-static"
"""What embeds where no bundle is named: the quickest of those that ship."""
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the model; default: all there are.")]
Fields = Annotated[
    str | None,
    typer.Option(help="Fields to keep beside text, id and language: title,year; '' keeps none. Default: all."),
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the model runs.")]
