"""The commands `kdserve translate` and `kdserve summarise`: texts in, texts out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdserve.cli.console import flush, print_json, print_row, progress_bars, say
from kdserve.cli.options import Device, Threads
from kdserve.errors import FolderError

if TYPE_CHECKING:
    from kdserve.runtime import Translator

_CHUNK_LINES = 1024

Bundle = Annotated[str, typer.Argument(help="A bundle's folder, or a published name.")]
Texts = Annotated[Path, typer.Argument(help="A file with a text a line, or - for stdin.")]
From = Annotated[str, typer.Option("--from", help="Language of the texts, where the bundle must be told.")]
Into = Annotated[str, typer.Option("--into", help="Language to write, where the bundle knows several.")]
Beams = Annotated[int, typer.Option(min=0, max=64, help="Beams of the search; default: the bundle's own, mostly 1.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a text.")]


def register(app: typer.Typer) -> None:
    """Add this room's commands."""
    app.command()(translate)
    app.command()(summarise)


def translate(
    bundle: Bundle,
    texts: Texts = Path("-"),
    source: From = "",
    target: Into = "",
    beams: Beams = 0,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Translate each line of a file; an empty line stays one."""
    _write("translate", bundle, texts, source, target, beams, threads, device, json)


def summarise(
    bundle: Bundle,
    texts: Texts = Path("-"),
    source: From = "",
    target: Into = "",
    beams: Beams = 0,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Summarise each line of a file; an empty line stays one."""
    _write("summarise", bundle, texts, source, target, beams, threads, device, json)


def _write(
    task: Literal["translate", "summarise"],
    bundle: str,
    texts: Path,
    source: str,
    target: str,
    beams: int,
    threads: int | None,
    device: Device,
    json: bool,
) -> None:
    from kdserve.lines import read_batches, show

    translator, num_texts = _open(task, bundle, threads, device), 0
    with progress_bars() as progress:
        for chunk in read_batches(texts, _CHUNK_LINES):
            outputs = translator.translate(chunk, source=source, target=target, num_beams=beams)
            for text, output in zip(chunk, outputs, strict=True):
                if json:
                    print_json({"text": text, "output": output})
                else:
                    print_row(output)
            flush()
            num_texts += len(chunk)
            progress(task, num_texts, 0)
    if not num_texts:
        say(f"{show(texts)} holds no text; give a file with a text a line")


def _open(task: str, bundle: str, threads: int | None, device: Device) -> Translator:
    from kdserve.runtime import Translator

    translator = Translator.load(bundle, device=device, num_threads=threads)
    if translator.settings.task != task:
        raise FolderError(f"{bundle} was made to {translator.settings.task}; run kdserve {translator.settings.task}")
    return translator
