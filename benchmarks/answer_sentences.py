"""Question answering as `kdserve search --answer` does it: is the first sentence that it gives the one that answers?

    python benchmarks/answer_sentences.py MODEL --data DIR [--languages en,de,ar]

DIR holds eval/xquad-r-dev. The paragraphs of each language become an index, and the questions of every language are
asked there. An answer is right when its middle lies in the sentence that holds the answer. Leaves the record
`answer-sentences-<name>`.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import accumulate
from pathlib import Path
from statistics import mean

from records import Table, publish

from kdserve.cli.console import progress_bars
from kdserve.cli.search import ANSWER_PASSAGES
from kdserve.evaluate import Remembering, read_questions
from kdserve.evaluate.questions import QuestionSet
from kdserve.runtime import Encoder
from kdserve.search import Answer, Document, Retriever, answer_question


def main() -> None:
    model, sets = asked_for(__doc__)
    encoder = Encoder.load(model)
    remembering = Remembering(encoder)
    recall: dict[str, dict[str, float]] = {asked: {} for asked in sets}
    with tempfile.TemporaryDirectory() as work, progress_bars() as progress:
        for number, (answered, documents) in enumerate(sets.items(), 1):
            folder = Path(work) / answered
            Retriever.build(folder, [Document(text=text) for text in documents.paragraphs], encoder)
            retriever = Retriever.open(folder, remembering)
            for asked, questions in sets.items():
                recall[asked][answered] = share_right(retriever, questions, documents)
            progress("languages", number, len(sets))
    table = make_table(recall, len(next(iter(sets.values())).questions))
    name = encoder.settings.name
    publish(f"answer-sentences-{name}", {"model": name, "recall": recall}, table=table)


def asked_for(description: str | None) -> tuple[str, dict[str, QuestionSet]]:
    """The model and the questions that the command line names."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--languages", default="")
    arguments = parser.parse_args()
    languages = arguments.languages.split(",") if arguments.languages else None
    return arguments.model, read_questions(arguments.data / "eval" / "xquad-r-dev", languages=languages)


def share_right(retriever: Retriever, asked: QuestionSet, answered: QuestionSet) -> float:
    """The share of questions whose first answer is the sentence that holds it."""
    texts = {name: question.text for name, question in asked.questions.items()}
    found = retriever.search_batch(texts.values(), ANSWER_PASSAGES, rerank=0)
    right = 0
    for (name, text), hits in zip(texts.items(), found, strict=True):
        answers = answer_question(text, hits, retriever.encoder)
        right += bool(answers) and sentence_of(answers[0], answered) == answered.questions[name].sentence
    return right / len(texts)


def sentence_of(answer: Answer, answered: QuestionSet) -> int:
    """The number of the sentence that the middle of an answer lies in."""
    paragraph = int(answer.hit.id)
    middle = (answer.hit.passage or (0, 0))[0] + (answer.start + answer.end) // 2
    first = 0
    for text in answered.paragraphs[:paragraph]:
        first += num_sentences(answered.sentences, first, text)
    own = answered.sentences[first : first + num_sentences(answered.sentences, first, answered.paragraphs[paragraph])]
    ends = accumulate(len(sentence) + 1 for sentence in own)
    return first + next(number for number, end in enumerate(ends) if middle < end)


def num_sentences(sentences: object, first: int, paragraph: str) -> int:
    """How many of the sentences from `first` on make up a paragraph, which joins them with a space."""
    size = number = 0
    while size < len(paragraph):
        size += len(sentences[first + number]) + 1  # type: ignore[index]
        number += 1
    return number


def make_table(recall: dict[str, dict[str, float]], num_questions: int) -> Table:
    rows = [["mean", percent([row[one] for one, row in recall.items()]), *across(recall, list(recall))]]
    rows += [[one, percent([recall[one][one]]), *across(recall, [one])] for one in sorted(recall)]
    note = (
        f"Half of XQuAD-R, {num_questions} questions a language; % whose first answer is the right sentence, among the "
        f"{ANSWER_PASSAGES} best passages of a language's index; means over the other languages."
    )
    return Table(columns=["language", "own language", "asked of others", "answered to others"], rows=rows, note=note)


def across(recall: dict[str, dict[str, float]], languages: list[str]) -> list[str]:
    asked = [recall[one][other] for one in languages for other in recall if other != one]
    answered = [recall[other][one] for one in languages for other in recall if other != one]
    return [percent(asked), percent(answered)]


def percent(values: list[float]) -> str:
    return f"{100 * mean(values):.1f}" if values else "–"


if __name__ == "__main__":
    main()
