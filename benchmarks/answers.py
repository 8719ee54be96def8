"""Search quality language by language: does a question find the paragraph, and the sentence, that answers it?

    python benchmarks/answers.py MODEL --data DIR

MODEL is a published name, a bundle or student folder, or a teacher's name; DIR holds eval/xquad-r-dev. Leaves the
record `answers-<name>`, which has every pair of languages and whose table stands in the model's card.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from records import Table, publish

from kdserve.cli.console import progress_bars
from kdserve.evaluate import AnswerFigures, Remembering, measure_answers, read_questions
from kdserve.loading import open_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    questions = read_questions(arguments.data / "eval" / "xquad-r-dev")
    with progress_bars() as progress:
        embedder = Remembering(open_model(arguments.model, num_threads=1), progress=progress)
        figures = measure_answers(embedder, questions, progress=progress)
    table = answer_table(figures)
    name = Path(arguments.model).name
    record = {"model": name, "answers": [asdict(one) for one in figures]}
    publish(f"answers-{name}", record, table=table)


def answer_table(figures: list[AnswerFigures]) -> Table:
    """One row a language, the mean first: to paragraphs, then to sentences."""
    columns, rows = ["language"], [["mean"], *([language] for language in sorted(figures[0].within))]
    for one in figures:
        columns += [f"{one.unit}, own language", "asked of others", "answered to others"]
        for row in rows:
            row += [_percent(column, row[0]) for column in (one.within, one.asked, one.answered)]
    sizes = " and ".join(f"{max(one.num_candidates.values())} {one.unit}s" for one in figures)
    pools = ", ".join(f"{one.pooled:.3f} ({one.unit}s)" for one in figures)
    note = (
        f"Half of XQuAD-R: recall@1 in % of {figures[0].num_questions} questions among {sizes} of a language; means "
        "over the other languages by the question's language and by the answer's. All languages in one pool, mean "
        f"average precision: {pools}."
    )
    return Table(columns=columns, rows=rows, note=note)


def _percent(figures: dict[str, float], language: str) -> str:
    value = sum(figures.values()) / len(figures) if language == "mean" else figures[language]
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    main()
