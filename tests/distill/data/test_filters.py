from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from kdserve.distill.data.corpus import Corpus, build_corpus
from kdserve.distill.data.families import hold_out_names
from kdserve.distill.data.filters import keep_pairs, says_again
from kdserve.recipe import DataRecipe, FilterRecipe, SequenceRecipe, ValidationRecipe, WriterStudentRecipe

GOOD = [
    ("de", "Where is the station?", "Wo ist der Bahnhof?"),
    ("ja", "Where is the station?", "駅はどこですか。"),
    ("ru", "The train is late today.", "Поезд сегодня опаздывает."),
    ("sr", "The train is late today.", "Voz danas kasni."),
    ("de", "It rains in 1984.", "Es regnet 1984."),
]


def corpus_of(rows: list[tuple[str, str, str]], folder: Path) -> Corpus:
    folder.mkdir(exist_ok=True)
    lines = ["language\tenglish\tother", *("\t".join(row) for row in rows)]
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = DataRecipe(path="pairs.tsv", language_column="language", source="english", translation="other")
    recipe = SequenceRecipe(
        name="tiny",
        task="translate",
        data=(data,),
        data_dir=str(folder),
        student=WriterStudentRecipe(encoder="aligned"),
        validation=ValidationRecipe(permille=0),
    )
    return build_corpus(recipe, folder / "corpus")


@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        ("max_ratio", ("de", "Yes.", "Ja, das ist so, und es war immer so, seit alle hier sind, die wir kennen.")),
        ("script", ("ru", "The train is late.", "The train is late!")),
        ("script", ("ja", "東京は大きいです。", "東京は大きい。")),
        ("repeats", ("de", "Where is the station?", "Wo ist der Bahnhof?")),
        ("repeats", ("de", "Visual Studio", "Visual Studio")),
        ("repeats", ("de", "Yes and again.", "ja ja ja ja ja ja ja ja ja ja ja ja")),
    ],
)
def test_a_filter_leaves_out_what_it_is_for_and_off_it_keeps_it(setting, bad, tmp_path):
    corpus = corpus_of([*GOOD, bad], tmp_path / setting)
    off = FilterRecipe(max_ratio=0.0, script=False, repeats=False)
    on = dataclasses.replace(off, **{setting: 3.0 if setting == "max_ratio" else True})
    assert keep_pairs(corpus, off, translates=True).tolist() == [True] * 6
    assert keep_pairs(corpus, on, translates=True).tolist() == [True] * 5 + [False]


def test_long_sides_are_left_out_where_a_length_is_given(tmp_path):
    corpus = corpus_of([*GOOD, ("de", "Good.", "Gut. " * 20)], tmp_path / "long")
    settings = FilterRecipe(max_ratio=0.0, repeats=False, max_characters=60)
    assert keep_pairs(corpus, settings, translates=True).tolist() == [True] * 5 + [False]


def test_a_summary_is_in_the_script_of_its_text(tmp_path):
    corpus = corpus_of([("ja", "東京の地図", "この本には東京の地図があります。")], tmp_path / "summary")
    assert keep_pairs(corpus, FilterRecipe(max_ratio=0.0), translates=False).tolist() == [True]
    assert keep_pairs(corpus, FilterRecipe(max_ratio=0.0), translates=True).tolist() == [False]


def test_going_in_circles_is_told_from_saying_something():
    assert says_again("the end of the end of the end of the end of the end")
    assert not says_again("the end of the road is not the end of the journey")
    assert not says_again("ha ha ha")


def test_what_shares_a_rare_name_is_held_out_in_every_language(tmp_path):
    rows = []
    for number in range(40):
        name = f"lib{chr(97 + number % 26)}{chr(97 + number // 26)}xq"
        rows.append(("de", f"Werkzeuge {name}", f"Dieses Paket enthält {name} und mehr {number}."))
        rows.append(("fr", f"outils {name}", f"Ce paquet contient {name} et plus {number}."))
        rows.append(("fr", f"outils divers {number}", f"Ce paquet utilise {name} aussi {number}."))
    corpus = corpus_of(rows, tmp_path / "names")
    trained, held = hold_out_names(corpus, 300)
    by_package = held.reshape(40, 3)
    assert 2 < by_package[:, 0].sum() < 38
    assert np.array_equal(by_package[:, 0], by_package[:, 1])
    assert not by_package[:, 2].any()
    assert np.array_equal(~trained.reshape(40, 3), np.repeat(by_package[:, :1], 3, axis=1))
