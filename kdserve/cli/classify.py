"""The command `kdserve classify`: texts in, labels out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdserve.cli.console import flush, print_json, print_row, say
from kdserve.cli.options import Device, Threads

_CHUNK_LINES = 1024


def classify(
    bundle: Annotated[str, typer.Argument(help="A classifier's folder, or a published name: kdserve-langid.")],
    texts: Annotated[Path, typer.Argument(help="A file with a text a line, or - for stdin.")] = Path("-"),
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="With --json: number of labels, likeliest first.")] = 3,
    threads: Threads = None,
    device: Device = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a text.")] = False,
) -> None:
    """Name the label of each text: label, probability and text with tabs between. Empty lines are skipped."""
    from kdserve.lines import read_batches, show
    from kdserve.runtime import Classifier
    from kdserve.runtime.normalizer import is_blank

    classifier, num_texts = Classifier.load(bundle, device=device, num_threads=threads), 0
    for lines in read_batches(texts, _CHUNK_LINES):
        chunk = [line for line in lines if not is_blank(line)]
        num_texts += len(chunk)
        for text, row in zip(chunk, classifier.probabilities(chunk), strict=True):
            best = [(classifier.labels[place], float(row[place])) for place in (-row).argsort(kind="stable")]
            label, probability = best[0]
            if json:
                labels = {name: round(value, 6) for name, value in best[:top]}
                print_json({"text": text, "label": label, "probability": round(probability, 6), "labels": labels})
            else:
                print_row(label, f"{probability:.3f}", text)
        flush()
    if not num_texts:
        say(f"{show(texts)} holds no text, so there is no label; give a file with a text a line")
    if classifier.num_cut:
        say(
            f"{classifier.num_cut} of {num_texts} texts are longer than the {classifier.max_tokens} tokens that the "
            f"classifier reads; their labels tell of their beginnings"
        )
