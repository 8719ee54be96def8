"""One-line summaries of packages that nothing was trained on: a student beside the first sentences of descriptions.

    python benchmarks/summaries.py split DATA WORK
    python benchmarks/summaries.py score WORK [BUNDLE] [--outputs OUT/brief.txt.xz]

`DATA/summaries/LANGUAGE.tsv.gz` holds descriptions and their one-line synopses. `split` draws packages by the names
that synopses of two languages or more share, and writes `WORK/summaries/LANGUAGE.tsv` without them, for training, and
`WORK/held-out.tsv`; a pair goes to neither where only its description has a drawn name. `score` gives chrF and ROUGE-L
over whole words, or single characters of Japanese and Korean, as `kdserve evaluate` does, and how long outputs are
beside the synopses; of outputs that are there already, a line for each of `WORK/held-out.tsv`, as well.
"""

from __future__ import annotations

import argparse
import lzma
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from records import Table, write_record

from kdserve import Translator
from kdserve.bench.machine import describe_machine
from kdserve.distill.data.corpus import build_corpus
from kdserve.distill.data.families import hold_out_names
from kdserve.evaluate import TranslationPairs, measure_writing, read_pairs
from kdserve.recipe import DataRecipe, SequenceRecipe, WriterStudentRecipe
from kdserve.runtime.sequence.sentences import split_sentences

PERMILLE, LEAST, MOST = 40, 20, 150
Write = Callable[[Sequence[str]], Sequence[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    splitting, scoring = commands.add_parser("split"), commands.add_parser("score")
    splitting.add_argument("data", type=Path)
    splitting.add_argument("work", type=Path)
    scoring.add_argument("work", type=Path)
    scoring.add_argument("bundle", nargs="?")
    scoring.add_argument("--outputs", type=Path, help="what benchmarks/gpu/summaries.py wrote on the GPU")
    arguments = parser.parse_args()
    if arguments.command == "split":
        split(arguments.data, arguments.work)
    else:
        score(arguments.work, arguments.bundle, arguments.outputs)


def split(data: Path, work: Path) -> None:
    languages = sorted(path.name.split(".")[0] for path in (data / "summaries").glob("*.tsv.gz"))
    recipe = SequenceRecipe(
        name="summaries",
        task="summarise",
        data=(DataRecipe(path="summaries/{language}.tsv.gz", source="1", translation="0"),),
        data_dir=str(data),
        languages=tuple(languages),
        student=WriterStudentRecipe(encoder="kdserve-mini"),
    )
    corpus = build_corpus(recipe, work / "corpus")
    trained, held = hold_out_names(corpus, PERMILLE)
    rows: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for pair in range(len(trained)):
        language = corpus.languages[corpus.language_of[pair]]
        if trained[pair] or held[pair]:
            texts = corpus.translations[pair], corpus.sources[corpus.source_of[pair]]
            rows[language, bool(held[pair])].append("\t".join(texts))
    (work / "summaries").mkdir(exist_ok=True)
    for language in languages:
        _write(work / "summaries" / f"{language}.tsv", rows[language, False])
    held_out = [f"{language}\t{row}" for language in languages for row in rows[language, True]]
    _write(work / "held-out.tsv", ["language\tsource\ttarget", *held_out])
    print({language: [len(rows[language, False]), len(rows[language, True])] for language in languages})


def score(work: Path, bundle: str | None, ready: Path | None) -> None:
    pairs = [
        replace(one, sources=one.sources[:MOST], targets=one.targets[:MOST])
        for one in read_pairs(work / "held-out.tsv")
        if len(one.sources) >= LEAST
    ]
    writers: dict[str, Write] = {
        "first sentence": lambda texts: [split_sentences(text)[0].text for text in texts],
        "its first 60 characters": lambda texts: [split_sentences(text)[0].text[:60] for text in texts],
    }
    if bundle:
        writers["student"] = Translator.load(bundle, num_threads=1).translate
    if ready:
        sources = [row.split("\t")[1] for row in (work / "held-out.tsv").read_text("utf-8").splitlines()[1:]]
        written = dict(zip(sources, lzma.decompress(ready.read_bytes()).decode().split("\n"), strict=True))
        writers["student on the GPU"] = lambda texts: [written[text] for text in texts]
    outputs: dict[str, list[str]] = defaultdict(list)
    data: dict[str, Any] = {}
    for name, write in writers.items():

        def kept(texts: Sequence[str], name: str = name, write: Write = write) -> Sequence[str]:
            written = list(write(texts))
            outputs[name] += written
            return written

        data[name] = [asdict(row) for row in measure_writing(kept, pairs, target="")]
    table = _table(data, outputs, pairs)
    print(table.markdown())
    name = Translator.load(bundle).settings.name if bundle else "first-sentence"
    write_record(f"summaries-{name}", data, table=table, machine=describe_machine())


def _table(data: dict[str, Any], outputs: dict[str, list[str]], pairs: Sequence[TranslationPairs]) -> Table:
    measures = ("chrf", "rouge_l")
    rows = [
        [one.language, str(len(one.sources)), *(f"{data[name][i][key]:.1f}" for name in data for key in measures)]
        for i, one in enumerate(pairs)
    ]
    means = [f"{statistics.fmean(row[key] for row in data[name]):.1f}" for name in data for key in measures]
    wanted = sum(len(text) for one in pairs for text in one.targets)
    lengths = ", ".join(f"{name} {sum(map(len, own)) / wanted:.2f}" for name, own in outputs.items())
    note = f"Packages that nothing was trained on. Characters, as multiples of the synopses': {lengths}."
    columns = ["", "texts", *(f"{name}, {label}" for name in data for label in ("chrF", "ROUGE-L"))]
    return Table(columns=columns, rows=[*rows, ["mean", "", *means]], note=note)


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
