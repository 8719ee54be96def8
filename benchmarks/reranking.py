"""What `kdserve search --rerank N` brings and costs: does the first hit hold the answer, how long does a search take?

    python benchmarks/reranking.py MODEL --data DIR [--languages en,de,ar]

DIR holds eval/xquad-r-dev. The paragraphs of each language become an index, and the questions of every language are
asked there, as they come and with the first 5 to 50 hits ordered anew. Time is that of questions one by one on one
thread, in turns. Leaves the record `reranking-<name>`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import mean, median

from answer_sentences import asked_for, percent
from records import Table, write_record

from kdserve.bench.machine import describe_machine
from kdserve.cli.console import progress_bars
from kdserve.evaluate import Remembering
from kdserve.evaluate.questions import QuestionSet
from kdserve.runtime import Encoder
from kdserve.search import Document, Retriever

DEPTHS = (0, 5, 10, 20, 50)
TIMED = 10
"""Questions of each language whose time is taken, in their own language."""


def main() -> None:
    model, sets = asked_for(__doc__)
    encoder = Encoder.load(model, num_threads=1)
    remembering = Remembering(encoder)
    own: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    across: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    times_ms: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    with tempfile.TemporaryDirectory() as work, progress_bars() as progress:
        for number, (answered, paragraphs) in enumerate(sets.items(), 1):
            folder = Path(work) / answered
            retriever = Retriever.build(folder, [Document(text=text) for text in paragraphs.paragraphs], encoder)
            for question in list(paragraphs.questions.values())[:TIMED]:
                for depth in DEPTHS:
                    began = time.perf_counter()
                    retriever.search(question.text, rerank=depth)
                    times_ms[depth].append(1000 * (time.perf_counter() - began))
            quick = Retriever.open(folder, remembering)
            for asked, questions in sets.items():
                for depth in DEPTHS:
                    share = share_found(quick, questions, paragraphs, depth)
                    (own if asked == answered else across)[depth].append(share)
            progress("languages", number, len(sets))
    figures = [(own[depth], across[depth], times_ms[depth]) for depth in DEPTHS]
    table = make_table(figures, len(next(iter(sets.values())).questions))
    print(table.markdown())
    name = encoder.settings.name
    data = {"model": name, "depths": DEPTHS, "ms": [median(times_ms[depth]) for depth in DEPTHS]}
    write_record(f"reranking-{name}", data, table=table, machine=describe_machine())


def share_found(retriever: Retriever, asked: QuestionSet, answered: QuestionSet, depth: int) -> float:
    """The share of questions whose first hit is of the paragraph that holds the answer."""
    found = retriever.search_batch([question.text for question in asked.questions.values()], 1, rerank=depth)
    right = [answered.questions[name].paragraph for name in asked.questions]
    return mean(bool(hits) and int(hits[0].id) == paragraph for hits, paragraph in zip(found, right, strict=True))


def make_table(figures: list[tuple[list[float], list[float], list[float]]], num_questions: int) -> Table:
    rows = [
        [f"--rerank {depth}" if depth else "as they come", percent(own), percent(across), f"{median(times_ms):.1f}"]
        for depth, (own, across, times_ms) in zip(DEPTHS, figures, strict=True)
    ]
    note = (
        f"Half of XQuAD-R, {num_questions} questions a language among the paragraphs of one language: % whose first "
        f"hit holds the answer; median time of {TIMED} questions a language, one by one on one thread."
    )
    return Table(columns=["hits", "own language", "across", "ms a question"], rows=rows, note=note)


if __name__ == "__main__":
    main()
