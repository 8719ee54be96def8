"""kdserve neutralise."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from kdserve.cli.console import needs_extra, print_json, print_line, progress_bars, say
from kdserve.cli.options import Device, Threads


@needs_extra("export")
def neutralise(
    model: Annotated[
        str, typer.Argument(help="Student folder, any sentence-transformers folder, or the name of a packaged teacher.")
    ],
    pairs: Annotated[Path, typer.Option(help="`language<TAB>text<TAB>source` lines, some dozens of each language.")],
    out: Annotated[Path, typer.Option(help="Student folder to write; must not exist.")],
    directions: Annotated[int, typer.Option(min=1, help="How many directions to take off.")] = 16,
    most: Annotated[int, typer.Option(min=16, help="Pairs of each language that are read.")] = 128,
    bundle: Annotated[str, typer.Option(help="The model's own bundle, which embeds quicker.")] = "",
    threads: Threads = None,
    device: Device = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print the report as one line of JSON.")] = False,
) -> None:
    """Take off a model's vectors what tells languages apart, so that one index may mix them; trains nothing."""
    from kdserve.export import neutralise as run
    from kdserve.export import read_pairs, require_bundle_of
    from kdserve.loading import find_student, open_model
    from kdserve.runtime.published import find_bundle

    folder, found = find_student(model), read_pairs(pairs, most=most)
    if bundle:
        require_bundle_of(find_bundle(bundle), folder)
    with progress_bars() as progress:
        embedder = open_model(bundle or model, device=device, num_threads=threads)
        report = run(folder, out, embedder=embedder, pairs=found, directions=directions, progress=progress)
    if json:
        print_json(asdict(report))
    else:
        typer.echo("| language | shift before | after |\n|---|---|---|")
        for language, length in report.before.items():
            print_line(f"| {language} | {length:.3f} | {report.after[language]:.3f} |")
    say(f"next: kdserve export {quote(str(out))} --out BUNDLE")
