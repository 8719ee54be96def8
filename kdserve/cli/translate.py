"""The commands `kdserve translate` and `kdserve summarise`: texts in, texts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdserve.cli.console import flush, print_json, print_row, progress_bars, say
from kdserve.cli.options import Device, Threads
from kdserve.errors import FolderError

if TYPE_CHECKING:
    from kdserve.runtime import Classifier, Translator

_CHUNK_LINES = 1024

Bundle = Annotated[str, typer.Argument(help="A bundle's folder, or a published name.")]
Texts = Annotated[Path, typer.Argument(help="A file with a text a line, or - for stdin.")]
From = Annotated[str, typer.Option("--from", help="Language of the texts, where the bundle must be told.")]
LanguagesBy = Annotated[
    str,
    typer.Option(
        help="A classifier like kdserve-langid: lines in the language that is written stay as they are, and a bundle "
        "that must be told languages is told what it names, of others --from."
    ),
]
Into = Annotated[str, typer.Option("--into", help="Language to write, where the bundle knows several.")]
Beams = Annotated[int, typer.Option(min=0, max=64, help="Beams of the search; default: the bundle's own, mostly 1.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a text.")]


def translate(
    bundle: Bundle,
    texts: Texts = Path("-"),
    source: From = "",
    target: Into = "",
    languages_by: LanguagesBy = "",
    beams: Beams = 0,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Translate each line of a file; an empty line stays one."""
    _write("translate", bundle, texts, source, target, beams, threads, device, json, languages_by)


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
    languages_by: str = "",
) -> None:
    from kdserve.lines import read_batches, show
    from kdserve.runtime import Classifier

    translator, num_texts = _open(task, bundle, threads, device), 0
    write: Callable[..., list[str]] = partial(translator.translate, source=source, target=target, num_beams=beams)
    if languages_by:
        classifier = Classifier.load(languages_by, num_threads=threads)
        write = partial(translate_mixed, write, translator, classifier, source=source, target=target)
    with progress_bars() as progress:
        for chunk in read_batches(texts, _CHUNK_LINES):
            for text, output in zip(chunk, write(chunk), strict=True):
                if json:
                    print_json({"text": text, "output": output})
                else:
                    print_row(output)
            flush()
            num_texts += len(chunk)
            progress(task, num_texts, 0)
    if not num_texts:
        say(f"{show(texts)} holds no text; give a file with a text a line")


def translate_mixed(
    write: Callable[..., list[str]],
    translator: Translator,
    classifier: Classifier,
    texts: Sequence[str],
    *,
    source: str,
    target: str,
) -> list[str]:
    """Outputs of texts in several languages; those in the language that is written stay as they are."""
    from kdserve.runtime.classifier import LEAST_PROBABILITY

    outputs, known = list(texts), translator.settings.source_tokens
    written = target or next(iter(translator.targets), "")
    by_source: dict[str, list[int]] = {}
    for place, found in enumerate(classifier.classify(texts)):
        named = (found.label or "") if found.probability >= LEAST_PROBABILITY else ""
        if not named or named != written:
            by_source.setdefault(named if named in known else source, []).append(place)
    for one, places in by_source.items():
        for place, output in zip(places, write([texts[place] for place in places], source=one), strict=True):
            outputs[place] = output
    return outputs


def _open(task: str, bundle: str, threads: int | None, device: Device) -> Translator:
    from kdserve.runtime import Translator

    translator = Translator.load(bundle, device=device, num_threads=threads)
    if translator.settings.task != task:
        raise FolderError(f"{bundle} was made to {translator.settings.task}; run kdserve {translator.settings.task}")
    return translator
