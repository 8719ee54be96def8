from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from known_vectors import KnownVectors
from typer.testing import CliRunner

from kdserve.cli import app
from kdserve.errors import DataError
from kdserve.evaluate import answer_sections, measure_answers, read_questions

BUNDLE = str(Path(__file__).parents[1] / "runtime" / "bundles" / "static")
Paragraph = tuple[Sequence[str], Sequence[tuple[str, str, int]]]


def write(folder: Path, language: str, paragraphs: Sequence[Paragraph]) -> None:
    rows = [
        {"sentences": sentences, "qas": [{"id": i, "question": q, "answer_sentence": n} for i, q, n in asked]}
        for sentences, asked in paragraphs
    ]
    text = "\n".join(json.dumps(row) for row in rows) + "\n"
    (folder / f"{language}.jsonl.gz").write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "en", [(["a", "b"], [("1", "a?", 0), ("2", "b?", 1)]), (["c"], [("3", "c?", 0)])])
    write(tmp_path, "de", [(["C"], [("3", "C?", 0)]), (["A", "B"], [("1", "A?", 0), ("2", "B?", 1)])])
    return tmp_path


def vectors(**others: Sequence[float]) -> KnownVectors:
    """A question lies on its sentence, in both languages, unless `others` says so; a paragraph between sentences."""
    table: dict[str, Sequence[float]] = {}
    for number, letter in enumerate("abc"):
        own = np.eye(3)[number]
        table |= {name: own for text in (letter, letter.upper()) for name in (text, f"{text}?")}
    return KnownVectors(table | {"a b": [1, 1, 0], "A B": [1, 1, 0]} | others)


def test_every_ordered_pair_of_languages_has_its_figure(folder: Path) -> None:
    asked = read_questions(folder)
    paragraph, sentence, _ = measure_answers(vectors(**{"A?": [0, 0, 1]}), asked)
    assert paragraph.num_candidates == {"de": 2, "en": 2}
    assert sentence.num_candidates == {"de": 3, "en": 3}
    assert sentence.recall_at_1["en"] == {"de": 1.0, "en": 1.0}
    assert sentence.recall_at_1["de"] == pytest.approx({"de": 2 / 3, "en": 2 / 3})
    assert paragraph.recall_at_1["en"] == {"de": 1.0, "en": 1.0}
    assert paragraph.recall_at_1["de"] == pytest.approx({"de": 2 / 3, "en": 2 / 3})


def test_in_one_pool_the_answer_in_each_language_is_right(folder: Path) -> None:
    _, sentence, _ = measure_answers(vectors(), read_questions(folder))
    assert sentence.pooled == 1.0
    # every German sentence leans to one side: a German question meets all of them before the English answer
    biased = vectors(**{name: [*np.eye(3)[i], 0.0] for i, x in enumerate("abc") for name in (x, x + "?")})
    lean = {name: [*np.eye(3)[i], 9.0] for i, x in enumerate("ABC") for name in (x, x + "?")}
    biased = KnownVectors({**biased.table, **lean, "a b": [1, 1, 0, 0], "A B": [1, 1, 0, 9]})
    _, sentence, _ = measure_answers(biased, read_questions(folder))
    german, english = (1 + 2 / 4) / 2, (1 + 2 / 2) / 2
    assert sentence.pooled == pytest.approx((german + english) / 2)


def test_a_paragraph_is_ranked_by_its_best_sentence_too(folder: Path) -> None:
    asked = read_questions(folder, languages=["en"])
    apart = vectors(
        **{"a b": [-0.2, 1, 0.5]}
    )  # a? is nearer to the paragraph c than to its own, but lies on its sentence
    paragraph, _, reranked = measure_answers(apart, asked)
    assert paragraph.recall_at_1["en"]["en"] == pytest.approx(2 / 3)
    assert reranked.recall_at_1["en"]["en"] == 1.0
    assert (reranked.unit, reranked.num_candidates) == ("reranked paragraph", {"en": 2})


def test_a_paragraph_without_a_sentence_answers_nothing(tmp_path: Path) -> None:
    write(tmp_path, "en", [([], []), (["a", "b"], [("1", "a?", 0)])])
    found = measure_answers(vectors(**{"": [0, 0, 1]}), read_questions(tmp_path))
    assert [figures.recall_at_1["en"]["en"] for figures in found] == [1.0, 1.0, 1.0]


def test_a_candidate_tied_with_the_answer_is_not_found(folder: Path) -> None:
    _, sentence, _ = measure_answers(vectors(b=[1, 0, 0]), read_questions(folder, languages=["en"]))
    assert sentence.recall_at_1["en"]["en"] == pytest.approx(1 / 3)


def test_the_sections_say_what_a_language_asks_and_answers(folder: Path) -> None:
    _, sentence, _ = measure_answers(vectors(**{"A?": [0, 0, 1]}), read_questions(folder))
    within, across = answer_sections(sentence)
    assert within.figures == pytest.approx({"de": 2 / 3, "en": 1.0})
    assert across.columns["asked in it"] == pytest.approx({"de": 2 / 3, "en": 1.0})
    assert across.columns["answered in it"] == pytest.approx({"de": 1.0, "en": 2 / 3})
    assert across.summary().mean == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('{"sentences": ["a"]}', "qas"),
        ('{"sentences": ["a"], "qas": [{"id": "1", "question": "a?", "answer_sentence": 1}]}', "answer_sentence 1"),
        ('{"sentences": ["a"], "qas": [{"id": "1", "question": " ", "answer_sentence": 0}]}', "no text"),
        ('{"sentences": ["a", "b"], "qas": [{"id": "1", "question": "a?", "answer_sentence": true}]}', "sentence True"),
        ('{"sentences": "ab", "qas": [{"id": "1", "question": "a?", "answer_sentence": 0}]}', "no list but 'ab'"),
        ('{"sentences": ["a"], "qas": {}}', "no list but {}"),
        ("[1]", "line 1"),
        ("no json", "line 1"),
        ("[" * 100_000, "line 1"),
        ('{"sentences": ["a \\ud800"], "qas": []}', "line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    (tmp_path / "en.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=wrong):
        read_questions(tmp_path)


def test_a_language_in_two_files_is_refused_and_copies_are_passed_over(folder: Path) -> None:
    (folder / "de.jsonl.bak").write_text("an older one", encoding="utf-8")
    assert list(read_questions(folder)) == ["de", "en"]
    (folder / "de.jsonl").write_bytes(gzip.decompress((folder / "de.jsonl.gz").read_bytes()))
    with pytest.raises(DataError, match=r"has de.jsonl and de.jsonl.gz; take one of them out"):
        read_questions(folder)


def test_languages_with_other_questions_are_refused(folder: Path) -> None:
    write(folder, "fr", [(["d"], [("4", "d?", 0)])])
    with pytest.raises(DataError, match="fr has other questions than de"):
        read_questions(folder)


def test_the_command_prints_tables_and_the_pool(folder: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", BUNDLE, "--qa", str(folder)], catch_exceptions=False)
    assert "question to paragraph, across" in done.stdout
    assert "6 sentences of 2 languages in one pool" in " ".join(done.stdout.split())
    done = CliRunner().invoke(app, ["evaluate", BUNDLE, "--qa", str(folder), "--json"], catch_exceptions=False)
    paragraph, sentence, _ = json.loads(done.stdout)["answers"]
    assert (paragraph["unit"], sentence["unit"]) == ("paragraph", "sentence")
    assert set(sentence["recall_at_1"]["de"]) == {"de", "en"}
