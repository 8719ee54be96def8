"""`kdserve mine`: find translations between two texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from kdserve.cli.console import progress_bars, say
from kdserve.cli.options import DEFAULT_BUNDLE, Device, Threads
from kdserve.staging import staged_file


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("mine")(mine)


def mine(
    source: Annotated[Path, typer.Argument(help="Sentences, one a line; .gz too, - for stdin.")],
    target: Annotated[Path, typer.Argument(help="Sentences of the other language, one a line, in any order.")],
    out: Annotated[Path | None, typer.Option(help="The TSV to write; without it, pairs go to standard output.")] = None,
    bundle: Annotated[str, typer.Option(help="Bundle folder, or a published student's name.")] = DEFAULT_BUNDLE,
    neighbours: Annotated[int, typer.Option("-k", min=1, help="Neighbours that the margin looks at.")] = 4,
    min_score: Annotated[float, typer.Option(help="Least margin: higher gives fewer and surer pairs.")] = 1.06,
    threads: Threads = None,
    device: Device = "cpu",
) -> None:
    """Find translation pairs: source, target, margin, tab-separated, best first; `kdserve distill` reads the file."""
    from kdserve.errors import DataError
    from kdserve.lines import STDIN
    from kdserve.runtime import Encoder
    from kdserve.search import Source
    from kdserve.search import mine as mine_pairs

    sides = [Source(path=path, format="txt") for path in (source, target)]
    if source == target == STDIN:
        raise DataError("only one side can come through standard input; name a file for the other")
    for side in sides:
        side.count()  # both are there and whole, before hours are spent on one
    encoder = Encoder.load(bundle, device=device, num_threads=threads)
    num_pairs = 0
    with progress_bars() as progress, _written(out) as write:
        sources, targets = ((document.text for document in side.read()) for side in sides)
        for pair in mine_pairs(sources, targets, encoder, k=neighbours, min_score=min_score, progress=progress):
            write(f"{pair.source}\t{pair.target}\t{pair.score:.4f}\n")
            num_pairs += 1
    say(f"{num_pairs} pairs" + (f" in {out}" if out else ""))


@contextmanager
def _written(out: Path | None) -> Iterator[Callable[[str], object]]:
    """Yield what writes a line, to the file or to standard output."""
    if out is None:
        yield typer.get_text_stream("stdout", encoding="utf-8").write
        return
    with staged_file(out) as file:
        yield lambda line: file.write(line.encode())
