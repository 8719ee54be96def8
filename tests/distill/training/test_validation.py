from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdserve.distill import prepare
from kdserve.distill.training.validation import Accuracy
from kdserve.errors import DataError, RecipeError
from kdserve.recipe import Recipe
from kdserve.samples import parallel


def write_questions(folder: Path, *, shifted: int) -> Path:
    """Paragraphs of one sentence, each asked for by its own words, or by those of `shifted` paragraphs further on."""
    folder.mkdir(exist_ok=True)
    for language in ("de", "en"):
        texts = list(dict.fromkeys(parallel()[language]))[:30]
        rows = []
        for number, text in enumerate(texts):
            asked = texts[(number + shifted) % len(texts)]
            answer = {"id": str(number), "question": asked, "answer_sentence": 0}
            rows.append(json.dumps({"sentences": [text], "qas": [answer]}))
        (folder / f"{language}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def asking(tiny_recipe, tmp_path: Path):
    """Return a function that loads a recipe whose checkpoints are chosen by questions too."""

    def make(shifted: int, *overrides: str) -> Recipe:
        questions = write_questions(tmp_path / "questions", shifted=shifted)
        named = [f"validation.questions={questions}", "validation.permille=200", *overrides]
        return tiny_recipe("static", steps=4, overrides=named)

    return make


@pytest.mark.parametrize(("shifted", "share"), [(0, 1.0), (1, 0.0)])
def test_questions_count_for_half_of_what_chooses_the_weights(asking, tmp_path, teacher_cache, shifted, share):
    run = prepare(asking(shifted), tmp_path / "work", cache=teacher_cache)
    accuracy = run.task.measure(0)
    assert accuracy.questions == pytest.approx({"de": share, "en": share}, abs=0.1)
    assert accuracy.score == pytest.approx((accuracy.mean + sum(accuracy.questions.values()) / 2) / 2)
    run.train()
    rows = [json.loads(line) for line in (run.work / "train" / "log.jsonl").read_text().splitlines()]
    assert all(set(row["questions"]) == {"de", "en"} for row in rows)


def test_without_questions_translations_alone_choose():
    accuracy = Accuracy(by_language={"de": 0.5, "fr": 0.7}, by_domain={})
    assert accuracy.score == accuracy.mean == pytest.approx(0.6)


def test_where_no_translations_are_held_out_questions_choose_alone():
    assert Accuracy(by_language={}, by_domain={}, questions={"de": 0.2, "en": 0.4}).score == pytest.approx(0.3)
    assert Accuracy(by_language={}, by_domain={}).score == 0.0


def test_other_questions_are_another_run(asking, tmp_path, teacher_cache):
    keys = [prepare(asking(shifted), tmp_path / "work", cache=teacher_cache).key for shifted in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


def test_questions_that_are_not_there_or_of_no_use_are_refused(asking, classifier_recipe, tmp_path, teacher_cache):
    with pytest.raises(DataError, match="none"):
        prepare(asking(0, "validation.questions=none"), tmp_path / "work", cache=teacher_cache)
    with pytest.raises(RecipeError, match="needs a student that embeds"):
        classifier_recipe(overrides=["validation.questions=questions"])
