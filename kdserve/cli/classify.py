"""The command `kdserve classify`: texts in, labels out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from kdserve.cli.console import print_json, say
from kdserve.errors import DataError

_CHUNK_TEXTS = 1024


def register(app: typer.Typer) -> None:
    """Add this room's command."""
    app.command()(classify)


def classify(
    bundle: Annotated[str, typer.Argument(help="A classifier's folder, or a published name: kdserve-langid.")],
    texts: Annotated[Path, typer.Argument(help="A file with a text a line, or - for stdin.")] = Path("-"),
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="With --json: so many labels, likeliest first.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a text.")] = False,
) -> None:
    """Name the label of each text: label, probability and text with tabs between. Empty lines are skipped."""
    from kdserve.runtime import Classifier

    classifier, num_texts = Classifier.load(bundle), 0
    for chunk in _chunks(_lines(texts)):
        num_texts += len(chunk)
        for text, row in zip(chunk, classifier.probabilities(chunk), strict=True):
            best = [(classifier.labels[place], float(row[place])) for place in (-row).argsort(kind="stable")]
            label, probability = best[0]
            if json:
                labels = {name: round(value, 6) for name, value in best[:top]}
                print_json({"text": text, "label": label, "probability": round(probability, 6), "labels": labels})
            else:
                typer.echo(f"{label}\t{probability:.3f}\t{text}")
    if not num_texts:
        say(f"{texts} holds no text, so there is no label; give a file with a text a line")
    if classifier.num_cut:
        say(
            f"{classifier.num_cut} of {num_texts} texts are longer than the {classifier.max_tokens} tokens that the "
            f"classifier reads; their labels tell of their beginnings"
        )


def _lines(path: Path) -> Iterator[str]:
    """Yield the texts as they come, so that a pipe gets its answers early.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    try:
        stream = typer.get_text_stream("stdin", encoding="utf-8") if str(path) == "-" else path.open(encoding="utf-8")
        with stream:
            yield from (line.rstrip("\r\n") for line in stream if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}); give a file with a text a line") from error


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(lines)
    while chunk := list(islice(iterator, _CHUNK_TEXTS)):
        yield chunk
