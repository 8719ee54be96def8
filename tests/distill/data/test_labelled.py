from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest

from kdserve.distill.data.labelled import LabelledTexts, choose_labels, read_labelled, read_target
from kdserve.errors import DataError
from kdserve.recipe import Recipe


def test_labelled_texts_are_read_with_their_columns(tmp_path: Path):
    path = tmp_path / "a.tsv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("id\ttopic\tbody\n1\tsports\tTor!\n2\ttravel\tDer Zug fährt.\n")
    read = read_labelled(path, language="de", text="body", label="topic")
    assert read == LabelledTexts(texts=("Tor!", "Der Zug fährt."), labels=("sports", "travel"), languages=("de", "de"))
    assert read.numbers(["travel", "sports"]).tolist() == [1, 0]
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + gzip.decompress(path.read_bytes())))
    assert read_labelled(path, language="de", text="body", label="id").labels == ("1", "2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label\tbody\na\tb\n", r"has no column 'text'; its first line names label, body"),
        ("", r"has no column 'text'; its first line names nothing"),
        ("label\ttext\n", "has no row below its header"),
        ("label\ttext\na\n", r"line 2 has no text or no label"),
        ("label\ttext\na\tb\n\tc\n", r"line 3 has no text or no label"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, content: str, message: str):
    path = tmp_path / "a.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_labelled(path, language="en")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="there is no file"):
        read_labelled(tmp_path / "none.tsv", language="en")


def texts(*labels: str) -> LabelledTexts:
    return LabelledTexts(texts=("x",) * len(labels), labels=labels, languages=("en",) * len(labels))


def test_labels_come_from_teacher_recipe_or_texts_in_this_order(classifier_recipe):
    recipe = classifier_recipe()
    assert choose_labels(recipe.classifier, (), labelled=texts("b", "a", "b")) == ("a", "b")
    assert choose_labels(recipe.classifier, ("b", "a"), labelled=texts("b", "a")) == ("b", "a")
    fixed = classifier_recipe(overrides=['classifier.labels=["b", "c", "a"]'])
    assert choose_labels(fixed.classifier, (), labelled=texts("a", "b", "c")) == ("b", "c", "a")


def test_labels_that_do_not_fit_are_refused(classifier_recipe):
    recipe = classifier_recipe()
    with pytest.raises(DataError, match=r"classifier\.labelled has the label 'c', which the teacher does not know"):
        choose_labels(recipe.classifier, ("a", "b"), labelled=texts("a", "b", "c"))
    with pytest.raises(DataError, match=r"classifier\.target has the label 'c', which train\.tsv does not know"):
        choose_labels(recipe.classifier, (), labelled=texts("a", "b"), target=texts("c"))
    with pytest.raises(DataError, match=r"the label 'b' has no text in train\.tsv"):
        choose_labels(recipe.classifier, ("a", "b"), labelled=texts("a"))
    with pytest.raises(DataError, match="has one label only, 'a'"):
        choose_labels(recipe.classifier, (), labelled=texts("a", "a"))
    fixed = classifier_recipe(overrides=['classifier.labels=["a", "z"]'])
    with pytest.raises(DataError, match=r"the teacher has the labels a, b, classifier\.labels a, z"):
        choose_labels(fixed.classifier, ("a", "b"), labelled=texts("a", "b"))


def targets(recipe: Recipe) -> LabelledTexts:
    return read_target(recipe.classifier, Path(recipe.data_dir), languages=recipe.languages, seed=recipe.seed)


def test_target_texts_follow_the_mode(classifier_recipe):
    assert len(targets(classifier_recipe("unsupervised"))) == 0
    few = targets(classifier_recipe("semi-supervised", overrides=["classifier.per_class=3"]))
    counts = Counter(zip(few.languages, few.labels, strict=True))
    assert counts == {(language, label): 3 for language in ("de", "ja") for label in ("question", "statement")}
    assert len(targets(classifier_recipe("supervised"))) == 2 * 60
    only = classifier_recipe("supervised", overrides=['languages=["de"]'])
    assert set(targets(only).languages) == {"de"}
    with pytest.raises(DataError, match=r"the recipe names \w+(, \w+)*, but .* has no such file"):
        targets(classifier_recipe("supervised", overrides=['languages=["de", "fr"]']))
    with pytest.raises(DataError, match="no file matches"):
        targets(classifier_recipe("supervised", overrides=["classifier.target=no.{language}.tsv"]))
