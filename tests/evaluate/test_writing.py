"""Figures of translations: what they count, by hand."""

from __future__ import annotations

import pytest

from kdserve.errors import DataError
from kdserve.evaluate import TranslationPairs, measure_writing
from kdserve.evaluate.writing import corpus_chrf, is_circle, lost_names, lost_numbers

_PAIRS = TranslationPairs(
    language="de",
    sources=["Es sind 1.200 Eier und 3 Hühner.", "Das Brot ist warm.", "Ja."],
    targets=["There are 1,200 eggs and 3 hens.", "The bread is warm.", "Yes."],
)


def test_outputs_that_are_the_references_have_every_point() -> None:
    (row,) = measure_writing(lambda _: list(_PAIRS.targets), [_PAIRS])
    assert (round(row.bleu), round(row.chrf), round(row.rouge_l)) == (100, 100, 100)
    assert (row.empty, row.circles, row.num_numbers, row.numbers_lost, row.num_names) == (0, 0, 2, 0, 0)


def test_empty_outputs_circles_and_lost_numbers_are_counted() -> None:
    outputs = ["There are 3 hens.", "", "yes and yes and yes and yes and yes and "]
    (row,) = measure_writing(lambda _: outputs, [_PAIRS])
    assert (row.empty, row.circles) == (1 / 3, 1 / 3)
    assert (row.num_numbers, row.numbers_lost) == (2, 1)


def test_outputs_that_are_too_few_are_refused() -> None:
    with pytest.raises(DataError, match="3 sources came back as 1 outputs"):
        measure_writing(lambda _: ["one"], [_PAIRS])


@pytest.mark.parametrize(
    ("text", "circles"),
    [
        ("the cat the cat the cat the cat the cat the cat", True),
        ("很好很好很好很好很好很好很好很好很好很好很好很好很好", True),
        ("ha ha ha ha", False),
        ("1000000000000", False),
        ("A text that says each thing once, and no more than that.", False),
    ],
)
def test_circles_are_stretches_four_times_in_a_row(text: str, circles: bool) -> None:
    assert is_circle(text) == circles


def test_numbers_are_the_same_whatever_parts_their_digits() -> None:
    assert lost_numbers("1.200 und 3,5 %", "1,200 and 3.5%") == (2, 0)
    assert lost_numbers("1200", "12") == (1, 1)
    assert lost_numbers("१२ और ٣٤", "12 and 34") == (2, 0)


def test_names_are_words_with_a_capital_that_source_and_target_share() -> None:
    source, target = "Frau Müller traf Olaf Scholz in Köln.", "Ms Müller met Olaf Scholz in Cologne."
    assert lost_names(source, target, target) == (3, 0)
    assert lost_names(source, target, "Müllers met Olaf Scholzz in Köln.") == (3, 2)


def test_chrf_falls_with_what_is_missing() -> None:
    assert corpus_chrf(["The bread is warm."], ["The bread is warm."]) == 100
    assert 0 < corpus_chrf(["The bread."], ["The bread is warm."]) < 70


def test_summaries_are_compared_by_the_words_of_any_script():
    pairs = [
        TranslationPairs(language="ru", sources=["a"], targets=["Читает файлы ZIP"]),
        TranslationPairs(language="ja", sources=["b"], targets=["日本語の辞書"]),
        TranslationPairs(language="hi", sources=["c"], targets=["हिन्दी किताब"]),
    ]
    outputs = {"a": "пишет файлы zip.", "b": "日本の辞書。", "c": "हिन्दी गीत"}
    rows = measure_writing(lambda texts: [outputs[text] for text in texts], pairs, target="")
    assert [round(row.rouge_l, 1) for row in rows] == [66.7, 90.9, 50.0]
