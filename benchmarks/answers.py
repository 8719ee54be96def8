"""Search quality: does a question find the paragraph, and the sentence, that answers it? All languages of XQuAD-R.

    python benchmarks/answers.py MODEL... --data DIR

A MODEL is a published name, a bundle or student folder, or a teacher's name; DIR holds eval/xquad-r-dev. Leaves the
record `answers`, which has every pair of languages.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from records import Table, write_record

from kdserve.bench.machine import describe_machine
from kdserve.cli.console import progress_bars
from kdserve.evaluate import AnswerFigures, Remembering, measure_answers, read_questions
from kdserve.loading import open_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    questions = read_questions(arguments.data / "eval" / "xquad-r-dev")
    figures = {}
    for model in arguments.models:
        with progress_bars() as progress:
            embedder = Remembering(open_model(model, num_threads=1), progress=progress)
            figures[Path(model).name] = measure_answers(embedder, questions, progress=progress)
    table = answer_table(figures)
    print(table.markdown())
    record = {name: [asdict(one) for one in by_unit] for name, by_unit in figures.items()}
    write_record("answers", {"models": record}, table=table, machine=describe_machine())


def answer_table(figures: dict[str, list[AnswerFigures]]) -> Table:
    """One row a model: recall@1 in one language and across languages, and the pool of all."""
    columns = ["model"]
    rows = [[name] for name in figures]
    for number, first in enumerate(next(iter(figures.values()))):
        columns += [f"{first.unit}: own language", "lowest", "across languages", "one pool, mAP"]
        for row, by_unit in zip(rows, figures.values(), strict=True):
            one = by_unit[number]
            worst = min(one.within, key=lambda language: one.within[language])
            across = sum(one.asked.values()) / len(one.asked)
            own = sum(one.within.values()) / len(one.within)
            row += [f"{100 * own:.1f}", f"{worst} {100 * one.within[worst]:.1f}", f"{100 * across:.1f}"]
            row.append(f"{one.pooled:.3f}")
    sample = next(iter(figures.values()))
    sizes = ", ".join(f"{max(one.num_candidates.values())} {one.unit}s" for one in sample)
    note = (
        f"Half of XQuAD-R: {sample[0].num_questions} questions, {sizes} a language, {len(sample[0].within)} languages. "
        "Recall@1 in % within each language and over all ordered pairs of different languages; mean average precision "
        "where all languages' candidates lie in one pool and the answer in each is right."
    )
    return Table(columns=columns, rows=rows, note=note)


if __name__ == "__main__":
    main()
