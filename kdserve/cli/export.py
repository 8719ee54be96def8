"""The command `kdserve export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.command(name="export")(export)


def export(
    student: Annotated[Path, typer.Argument(help="Student folder, made by kdserve distill.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write; must not exist.")],
    precision: Annotated[str, typer.Option(help="fp32 or int8.")] = "int8",
    texts: Annotated[
        Path | None, typer.Option(help="Texts for the gate, one a line or `language<TAB>text`; default: samples.")
    ] = None,
    floor: Annotated[float, typer.Option(help="Lowest mean cosine to the student, for every language.")] = 0.998,
    json: Annotated[bool, typer.Option("--json", help="Print the gate's record as one line of JSON.")] = False,
) -> None:
    """Turn a student into a verified ONNX bundle; refuse when any language loses more than the floor allows."""
    from kdserve.cli.console import print_json, progress_bars, say
    from kdserve.export import ExportSettings, export_bundle, parse_precision, read_gate_texts

    settings = ExportSettings(precision=parse_precision(precision), min_mean_cosine=floor)
    with progress_bars() as progress:
        gate_texts = read_gate_texts(texts) if texts else None
        report = export_bundle(student, out, settings=settings, texts=gate_texts, progress=progress)
    if json:
        print_json(report.to_json())
    else:
        typer.echo(report.table())
    say(f"next: kdserve search --bundle {out} …")
