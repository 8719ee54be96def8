"""`kdserve bench`: teacher and students side by side."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdserve.cli.options import Device, codes, refuse_unread
from kdserve.errors import FolderError

if TYPE_CHECKING:
    from kdserve.bench import BenchRecord

MOST_TEXTS = 100_000
"""In a call: more are no batch, and would fill memory."""


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Bundle or student folders, published names, a teacher; the first is the baseline."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each; default: all there are.")] = None,
    device: Device = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of timing; the models take turns in each.")] = 5,
    batch_sizes: Annotated[str, typer.Option(help="Numbers of texts in a call, separated by commas.")] = "1,8,32,128",
    quality: Annotated[bool, typer.Option(help="Measure quality too.")] = True,
    tatoeba: Annotated[Path | None, typer.Option(help="Quality from Tatoeba v1 files in this folder.")] = None,
    sts: Annotated[Path | None, typer.Option(help="Quality from stsb-<language>-test.csv files.")] = None,
    languages: Annotated[str, typer.Option(help="Languages to measure quality in, separated by commas.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print nothing but one line of JSON.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a report to this folder: HTML, pictures, a table.")] = None,
) -> None:
    """Time models side by side: latency, throughput, memory and cold start, with quality beside speed.

    Without MODELS: the teacher, where its package is installed, against every published student. Ends in one line of
    JSON, but for a screen.
    """
    from kdserve.bench.threads import thread_environment
    from kdserve.runtime.threads import threads_or_all

    num_threads = threads_or_all(threads)
    os.environ.update(thread_environment(num_threads))  # before any library starts its pool
    logging.getLogger("kdserve").setLevel(logging.ERROR)  # a text that is cut would be told again in every round
    sizes = _batch_sizes(batch_sizes)
    if not quality:
        refuse_unread("no quality is measured", {"--tatoeba": tatoeba, "--sts": sts, "--languages": languages})

    from kdserve.bench import bench as run_bench
    from kdserve.bench import sample_workload
    from kdserve.bench.contenders import QualityFiles, default_models, open_contender
    from kdserve.cli.console import print_json, progress_bars, say

    if report:
        from kdserve.bench.report import require_reportable, write_report

        require_reportable(report)
    chosen = models or default_models()
    if not chosen:
        raise FolderError("no student is published here and no teacher installed; name a bundle folder to time")
    files = QualityFiles(tatoeba=tatoeba, sts=sts, languages=codes(languages) or None) if quality else None
    with progress_bars() as progress:
        contenders = [
            open_contender(model, device=device, num_threads=num_threads, quality=files, progress=progress)
            for model in chosen
        ]
        record = run_bench(
            contenders,
            workload=sample_workload(num_documents=max(128, *sizes)),
            num_threads=num_threads,
            rounds=rounds,
            batch_sizes=sizes,
            progress=progress,
        )
    if report:
        say(f"report: {write_report(record, report)}")
    if not json:
        _print(record)
    if json or not sys.stdout.isatty():  # a screen has no use for its thousands of characters
        print_json(record.to_json())


def _batch_sizes(text: str) -> list[int]:
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or max(sizes) > MOST_TEXTS:
        said = f"{text!r} is not a list of numbers like 1,8,32, up to {MOST_TEXTS}"
        raise typer.BadParameter(said, param_hint="--batch-sizes")
    return sizes


def _print(record: BenchRecord) -> None:
    from rich.text import Text

    from kdserve.bench.table import conditions, gain_text, table_lines
    from kdserve.cli.console import new_table, print_whole

    table = new_table("", [""], [row.name for row in record.rows])
    for line in table_lines(record):
        cells = list(map(Text, line.cells))
        for cell, gain in zip(cells, line.gains, strict=True):
            if gain is not None:
                cell.append(f" ({gain_text(gain)})", "green" if gain >= 1 else "red")
        table.add_row(line.label, *cells)
    print_whole(table, conditions(record))
