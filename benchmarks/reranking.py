"""What ordering hits by their sentences brings and costs: does the first hit hold the answer, how long is a search?

    python benchmarks/reranking.py MODEL --data DIR [--languages en,de,ar]

DIR holds eval/xquad-r-dev. The paragraphs of each language become an index that keeps sentences and one that keeps
none; the questions of every language are asked there, with and without `--rerank`. Time is that of questions one by one
on one thread, in turns. Leaves the record `reranking-<name>`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

from answer_sentences import asked_for, percent
from records import Table, publish

from kdserve.cli.console import progress_bars
from kdserve.evaluate import Remembering
from kdserve.evaluate.questions import QuestionSet
from kdserve.runtime import Encoder
from kdserve.search import BuildOptions, Document, Retriever, describe

TIMED = 10
"""Questions of each language whose time is taken, in their own language."""


@dataclass(kw_only=True)
class Way:
    """A way to search, and what it was found to give, one figure a language, a pair of them or a question."""

    name: str
    sentences: bool
    rerank: int | None
    own: list[float] = field(default_factory=list)
    across: list[float] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)


def main() -> None:
    model, sets = asked_for(__doc__)
    encoder = Encoder.load(model, num_threads=1)
    remembering = Remembering(encoder)
    ways = [
        Way(name="an index as it is built", sentences=True, rerank=None),
        Way(name="--rerank 0", sentences=True, rerank=0),
        Way(name="built with --no-sentences", sentences=False, rerank=None),
        *(Way(name=f"… and --rerank {depth}", sentences=False, rerank=depth) for depth in (5, 10, 50)),
    ]
    built: dict[bool, Built] = {kept: Built() for kept in (False, True)}
    with tempfile.TemporaryDirectory() as work, progress_bars() as progress:
        for number, (answered, paragraphs) in enumerate(sets.items(), 1):
            folders = {kept: Path(work) / f"{answered}-{kept}" for kept in built}
            for kept, folder in folders.items():
                built[kept].add(folder, paragraphs.paragraphs, encoder, BuildOptions(sentences=kept))
            opened = {kept: Retriever.open(folder, encoder) for kept, folder in folders.items()}
            for question in list(paragraphs.questions.values())[:TIMED]:
                for way in ways:
                    began = time.perf_counter()
                    opened[way.sentences].search(question.text, rerank=way.rerank)
                    way.times_ms.append(1000 * (time.perf_counter() - began))
            quick = {kept: Retriever.open(folder, remembering) for kept, folder in folders.items()}
            for asked, questions in sets.items():
                for way in ways:
                    share = share_found(quick[way.sentences], questions, paragraphs, way.rerank)
                    (way.own if asked == answered else way.across).append(share)
            progress("languages", number, len(sets))
    table = make_table(ways, built, len(next(iter(sets.values())).questions))
    name = encoder.settings.name
    figures = [{"way": way.name, "ms": median(way.times_ms)} for way in ways]
    publish(f"reranking-{name}", {"model": name, "ways": figures}, table=table)


@dataclass(kw_only=True)
class Built:
    """What indexes took to build, and their size, all together."""

    seconds: float = 0.0
    size_bytes: int = 0

    def add(self, folder: Path, paragraphs: Sequence[str], encoder: Encoder, options: BuildOptions) -> None:
        began = time.perf_counter()
        Retriever.build(folder, [Document(text=text) for text in paragraphs], encoder, options=options)
        self.seconds += time.perf_counter() - began
        self.size_bytes += describe(folder).size_bytes


def share_found(retriever: Retriever, asked: QuestionSet, answered: QuestionSet, rerank: int | None) -> float:
    """The share of questions whose first hit is of the paragraph that holds the answer."""
    found = retriever.search_batch([question.text for question in asked.questions.values()], 1, rerank=rerank)
    right = [answered.questions[name].paragraph for name in asked.questions]
    return mean(bool(hits) and int(hits[0].id) == paragraph for hits, paragraph in zip(found, right, strict=True))


def make_table(ways: Sequence[Way], built: Mapping[bool, Built], num_questions: int) -> Table:
    rows = [[way.name, percent(way.own), percent(way.across), f"{median(way.times_ms):.1f}"] for way in ways]
    plain, kept = built[False], built[True]
    note = (
        f"Half of XQuAD-R, {num_questions} questions a language among the paragraphs of one language: % whose first "
        f"hit holds the answer; median time of {TIMED} questions a language, one by one on one thread. All indexes "
        f"together: {kept.size_bytes / 1e6:.1f} MB built in {kept.seconds:.0f} s, with --no-sentences "
        f"{plain.size_bytes / 1e6:.1f} MB in {plain.seconds:.0f} s."
    )
    return Table(columns=["", "own language", "across", "ms a question"], rows=rows, note=note)


if __name__ == "__main__":
    main()
