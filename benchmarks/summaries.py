"""One-line summaries of packages that nothing was trained on: a student beside the first sentences of descriptions.

    python benchmarks/summaries.py split DATA WORK
    python benchmarks/summaries.py score WORK [BUNDLE] [--outputs OUT/brief.txt.xz]

`DATA/summaries/LANGUAGE.tsv.gz` holds descriptions and their one-line synopses. `split` draws packages by the names
that synopses of two languages or more share, and writes `WORK/summaries/LANGUAGE.tsv` without them, for training, and
`WORK/held-out.tsv`; a pair goes to neither where only its description has a drawn name. `score` gives chrF and ROUGE-L
over whole words, or single characters of Japanese and Korean, as `kdserve evaluate` does, and once more without the
descriptions of which half stands in one that was trained on, as in those of language packs; how long outputs are beside
the synopses; how many have a number or a name (capitals or digits inside) that their source does not have; what they
cost on one thread. Outputs that are there already, a line for each of `WORK/held-out.tsv`, are scored likewise.
"""

from __future__ import annotations

import argparse
import lzma
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from records import Table, publish

from kdserve import Translator
from kdserve.distill.data.corpus import build_corpus
from kdserve.distill.data.families import hold_out_names
from kdserve.evaluate import TranslationPairs, measure_writing, read_pairs
from kdserve.recipe import DataRecipe, SequenceRecipe, WriterStudentRecipe
from kdserve.runtime.sequence.sentences import split_sentences

PERMILLE, LEAST, MOST = 40, 20, 150
MEASURES = "chrf", "rouge_l"
SPACELESS = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
NAME = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:[A-Z]|\d)\w*")
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
    unlike, name, writers = [unlike_trained(one, work) for one in pairs], "first-sentence", _writers(pairs)
    if bundle:
        translator = Translator.load(bundle, num_threads=1)
        name = translator.settings.name
        writers |= {"student": translator.translate, "student, greedily": partial(translator.translate, num_beams=1)}
    if ready:
        sources = [row.split("\t")[1] for row in (work / "held-out.tsv").read_text("utf-8").splitlines()[1:]]
        written = dict(zip(sources, lzma.decompress(ready.read_bytes()).decode().split("\n"), strict=True))
        writers["the GPU's own, greedily"] = lambda texts: [written[text] for text in texts]
    data = {label: _measured(write, pairs, unlike) for label, write in writers.items()}
    for theme, table in (("summaries", _means(data, pairs)), ("summaries-languages", _by_language(data, unlike))):
        publish(f"{theme}-{name}", data if theme == "summaries" else {}, table=table)


def _writers(pairs: Sequence[TranslationPairs]) -> dict[str, Write]:
    """What needs no student: the synopses themselves, which say how many names a right one takes from elsewhere."""
    synopses = {source: target for one in pairs for source, target in zip(one.sources, one.targets, strict=True)}
    return {
        "the synopses": lambda texts: [synopses[text] for text in texts],
        "first sentence": lambda texts: [split_sentences(text)[0].text for text in texts],
        "its first 60 characters": lambda texts: [split_sentences(text)[0].text[:60] for text in texts],
    }


def unlike_trained(pairs: TranslationPairs, work: Path) -> TranslationPairs:
    """Those whose description shares less than half of its runs of words with each one of its language in training."""
    holders = defaultdict(list)
    for number, row in enumerate((work / "summaries" / f"{pairs.language}.tsv").read_text("utf-8").splitlines()):
        for run in _runs(row.split("\t")[0]):
            holders[run].append(number)

    def nearest(runs: set[tuple[str, ...]]) -> int:
        return max(Counter(number for run in runs for number in holders.get(run, ())).values(), default=0)

    kept = [i for i, text in enumerate(pairs.sources) if nearest(_runs(text)) < len(_runs(text)) / 2]
    return replace(pairs, sources=[pairs.sources[i] for i in kept], targets=[pairs.targets[i] for i in kept])


def _runs(text: str) -> set[tuple[str, ...]]:
    """Runs of four words, or of eight characters in Japanese and Korean."""
    spaceless = SPACELESS.search(text) is not None
    words, size = re.findall(r"\w" if spaceless else r"\w+", text.lower()), 8 if spaceless else 4
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} or {tuple(words)}


def _measured(write: Write, pairs: Sequence[TranslationPairs], unlike: Sequence[TranslationPairs]) -> dict[str, Any]:
    """Figures by language, characters as a multiple of the synopses', CPU time, and foreign names."""
    began, outputs = time.process_time(), [list(write(one.sources)) for one in pairs]
    cpu_s = time.process_time() - began
    both = [pair for one, own in zip(pairs, outputs, strict=True) for pair in zip(one.sources, own, strict=True)]
    written = dict(both)
    rows, others = (measure_writing(lambda ts: [written[t] for t in ts], part, target="") for part in (pairs, unlike))
    wanted = sum(len(text) for one in pairs for text in one.targets)
    return {
        "languages": [asdict(row) for row in rows],
        "unlike": [asdict(row) for row in others],
        "length": sum(len(output) for _, output in both) / wanted,
        "cpu_ms": 1000 * cpu_s / len(both),
        "foreign_names": sum(has_foreign_name(*pair) for pair in both) / len(both),
    }


def has_foreign_name(source: str, output: str) -> bool:
    """Say whether an output has a number, or a name with capitals or digits inside, that its source does not have."""
    return any(name.lower() not in source.lower() for name in NAME.findall(output))


def _means(data: dict[str, Any], pairs: Sequence[TranslationPairs]) -> Table:
    rows = []
    for label, own in data.items():
        languages = own["languages"]
        spoilt = sum(round((row["empty"] + row["circles"]) * row["num_pairs"]) for row in languages)
        means = [
            " / ".join(f"{statistics.fmean(row[key] for row in part):.1f}" for key in MEASURES)
            for part in (languages, own["unlike"])
        ]
        names = f"{100 * own['foreign_names']:.1f}%"
        rows.append([label, *means, f"{own['length']:.2f}", names, str(spoilt), f"{own['cpu_ms']:.1f}"])
    columns = [
        "",
        "chrF / ROUGE-L",
        "unlike all trained on",
        "length",
        "foreign names",
        "empty or circling",
        "CPU ms a text",
    ]
    texts = sum(len(one.sources) for one in pairs)
    other = sum(row["num_pairs"] for row in next(iter(data.values()))["unlike"])
    note = (
        f"{texts} texts of packages that nothing was trained on, {other} of them unlike all texts that were; means of "
        f"{len(pairs)} languages."
    )
    return Table(columns=columns, rows=rows, note=note)


def _by_language(data: dict[str, Any], pairs: Sequence[TranslationPairs]) -> Table:
    shown = {label: own["unlike"] for label, own in data.items() if label != "the synopses"}
    rows = [
        [
            one.language,
            str(len(one.sources)),
            *(" / ".join(f"{own[i][k]:.1f}" for k in MEASURES) for own in shown.values()),
        ]
        for i, one in enumerate(pairs)
    ]
    return Table(columns=["", "texts", *shown], rows=rows, note="chrF / ROUGE-L.")


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
