"""Which language is it? kdserve-langid and other libraries on sentences that kdserve-langid was not trained on.

    python benchmarks/language_identification.py --data DIR [--model kdserve-langid] [--peers-python PYTHON]

DIR holds classify/sib200 (sentences of FLORES, an encyclopaedia's and a newspaper's language) and eval/tatoeba-v1
(everyday sentences, often three words long). PYTHON is an environment with lingua-language-detector, langdetect and
py3langid. Each library is judged on the languages that it knows, and the model on the same ones beside it; every
library may answer with any language of its own. Leaves the record `language-identification`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from records import Table, publish

from kdserve import Classifier
from kdserve.distill.data.labelled import read_labelled
from kdserve.distill.data.pairs import find_files
from kdserve.evaluate import read_tatoeba
from kdserve.recipe import DataRecipe

WORKER = Path(__file__).parent / "peers" / "language_worker.py"
PEERS = ("lingua", "py3langid", "langdetect")
SAME = {"no": "nb"}
"""Codes of other libraries that mean one of ours; Nynorsk counts as Bokmål where a library knows one Norwegian."""
Texts = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What an identifier said: the share of right answers by set and language, and texts a second on one thread."""

    languages: frozenset[str]
    accuracy: Mapping[str, Mapping[str, float]]
    texts_per_second: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="kdserve-langid")
    parser.add_argument("--peers-python", type=Path)
    options = parser.parse_args()
    sets = {"SIB-200": read_sib(options.data), "Tatoeba": read_everyday(options.data)}
    classifier = Classifier.load(options.model, num_threads=1)
    ours = ask(lambda texts: [p.label for p in classifier.classify(texts)], frozenset(classifier.labels), sets)
    others = {}
    for peer in PEERS if options.peers_python else ():
        with Peer(options.peers_python, peer) as opened:
            others[peer] = ask(opened.name, opened.languages, sets)
        print(peer, {name: round(mean(found), 4) for name, found in others[peer].accuracy.items()}, flush=True)
    table = make_table(classifier.settings.name, ours, others)
    answers = {classifier.settings.name: ours, **others}
    record = {
        name: {
            "languages": sorted(some.languages),
            "accuracy": some.accuracy,
            "texts_per_second": some.texts_per_second,
        }
        for name, some in answers.items()
    }
    publish("language-identification", {"identifiers": record}, table=table)


def read_sib(data: Path) -> Texts:
    files = find_files(DataRecipe(path="classify/sib200/test.{language}.tsv.gz"), data)
    return {language: read_labelled(path, language=language).texts for path, language in files}


def read_everyday(data: Path) -> Texts:
    pairs = read_tatoeba(data / "eval" / "tatoeba-v1")
    texts = {language: list(found.sources) for language, found in pairs.items()}
    return {**texts, "en": list(pairs["de"].targets)}


class Peer:
    """A library in an environment of its own, on one thread."""

    def __init__(self, python: Path, name: str) -> None:
        environment = {**os.environ, "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [str(python), str(WORKER), name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, encoding="utf-8"
        )
        self.languages = frozenset(SAME.get(code, code) for code in self._read())

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def name(self, texts: Sequence[str]) -> list[str]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(list(texts)) + "\n")
        self.process.stdin.flush()
        return [SAME.get(code, code) for code in self._read()]

    def _read(self) -> list[str]:
        assert self.process.stdout is not None
        codes: list[str] = json.loads(self.process.stdout.readline())
        return codes


def ask(name: Callable[[Sequence[str]], list[str]], languages: frozenset[str], sets: Mapping[str, Texts]) -> Answers:
    """Judge an identifier on the languages that it knows."""
    accuracy: dict[str, dict[str, float]] = {}
    num_texts, seconds = 0, 0.0
    for which, by_language in sets.items():
        accuracy[which] = {}
        for language, texts in sorted(by_language.items()):
            if language in languages:
                begin = time.perf_counter()
                named = name(texts)
                seconds, num_texts = seconds + time.perf_counter() - begin, num_texts + len(texts)
                is_right = [
                    code == language or (code == "nb" and language == "nn" and "nn" not in languages) for code in named
                ]
                accuracy[which][language] = round(float(np.mean(is_right)), 4)
    return Answers(languages=languages, accuracy=accuracy, texts_per_second=round(num_texts / seconds, 1))


def mean(accuracy: Mapping[str, float], languages: frozenset[str] | None = None) -> float:
    return float(np.mean([share for code, share in accuracy.items() if languages is None or code in languages]))


def make_table(name: str, ours: Answers, others: Mapping[str, Answers]) -> Table:
    rows = [[name, str(len(ours.languages)), *_cells(ours, None), f"{ours.texts_per_second:,.0f}"]]
    for peer, theirs in others.items():
        shared = ours.languages & theirs.languages
        speed = f"{theirs.texts_per_second:,.0f}"
        rows.append([f"{peer}, shared languages", str(len(shared)), *_cells(theirs, shared), speed])
        rows.append([f"{name}, the same", str(len(shared)), *_cells(ours, shared), ""])
    note = (
        "Share of sentences whose language is named, mean over languages (in brackets: how many the set has of them). "
        "One thread; texts/s over both sets."
    )
    return Table(columns=["", "languages", *ours.accuracy, "texts/s"], rows=rows, note=note)


def _cells(answers: Answers, languages: frozenset[str] | None) -> list[str]:
    cells = []
    for found in answers.accuracy.values():
        num = sum(languages is None or code in languages for code in found)
        cells.append(f"{mean(found, languages):.4f} ({num})")
    return cells


if __name__ == "__main__":
    main()
