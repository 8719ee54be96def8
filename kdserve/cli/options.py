"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads; 0: all that this process has.", rich_help_panel="Machine")
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the model runs.", rich_help_panel="Machine")]
