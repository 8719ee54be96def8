"""The classifiers that ship are what their cards say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kdserve import Classifier, samples
from kdserve.cli import app
from kdserve.evaluate import measure_classification
from kdserve.runtime import published_names
from kdserve.runtime.published import find_bundle


def test_kdserve_langid_is_published_among_classifiers_alone():
    assert published_names("classifier") == ["kdserve-langid"]
    assert "kdserve-langid" not in published_names()


def test_kdserve_langid_is_small_and_names_the_samples_languages():
    folder = find_bundle("kdserve-langid", kind="classifier")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4_200_000
    classifier = Classifier.load("kdserve-langid", num_threads=1)
    for language, texts in samples.parallel().items():
        figures = measure_classification(classifier.probabilities(texts), [language] * len(texts), classifier.labels)
        assert figures.accuracy >= 0.97, language


def test_kdserve_langid_gives_one_answer_a_text():
    classifier = Classifier.load("kdserve-langid", num_threads=2)
    texts = [text for sentences in samples.parallel().values() for text in sentences[::17]]
    together = classifier.probabilities(texts)
    assert np.array_equal(together[::-1], classifier.probabilities(texts[::-1]))
    for position in range(0, len(texts), 19):
        assert np.array_equal(together[position], classifier.probabilities([texts[position]])[0])


def test_an_index_gets_its_languages_from_kdserve_langid(tmp_path: Path):
    documents = samples.documents()[:40]
    lines = [json.dumps({"id": document.id, "text": document.text}) for document in documents]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    build = ["index", "build", str(tmp_path / "texts.jsonl"), "--out", str(tmp_path / "index")]
    run = CliRunner().invoke(app, [*build, "--languages-by", "kdserve-langid"], catch_exceptions=False)
    assert run.exit_code == 0
    search = ["search", str(tmp_path / "index"), documents[0].text, "-k", "40", "--json"]
    hits = json.loads(CliRunner().invoke(app, search, catch_exceptions=False).stdout)["hits"]
    wanted = {document.id: document.lang for document in documents}
    assert len(hits) == 40
    assert sum(hit["language"] == wanted[hit["id"]] for hit in hits) >= 39


def test_classify_reads_lines_as_an_index_does(tmp_path: Path):
    (tmp_path / "texts.txt").write_bytes("\ufeffGuten Tag, mein Freund\n\nOù est la gare ?\n".encode())
    run = CliRunner().invoke(app, ["classify", "kdserve-langid", str(tmp_path / "texts.txt")], catch_exceptions=False)
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [("de", "Guten Tag, mein Freund"), ("fr", "Où est la gare ?")]


def test_lines_that_show_nothing_get_no_label(tmp_path: Path):
    (tmp_path / "texts.txt").write_text("Guten Morgen allerseits\n\u200b\n\u00ad \n", encoding="utf-8")
    run = CliRunner().invoke(app, ["classify", "kdserve-langid", str(tmp_path / "texts.txt")], catch_exceptions=False)
    assert [line.split("\t")[0] for line in run.stdout.splitlines()] == ["de"]


def test_a_blank_text_has_no_label_and_keeps_its_place():
    found = Classifier.load("kdserve-langid", num_threads=1).classify(["", "Guten Morgen allerseits", "\u200b\n"])
    assert [one.label for one in found] == [None, "de", None]
    assert (found[0].probability, found[1].probability > 0.5) == (0.0, True)


def test_classify_says_once_how_many_texts_it_read_a_beginning_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "texts.txt").write_text("Ein kurzer Satz.\n" + "Der Zug kommt spät. " * 200 + "\n", encoding="utf-8")
    run = CliRunner().invoke(app, ["classify", "kdserve-langid", str(tmp_path / "texts.txt")], catch_exceptions=False)
    assert run.stdout.count("de\t") == 2
    assert run.stderr.count("1 of 2 texts are longer than the 256 tokens that the classifier reads") == 1
    assert "were cut" not in run.stderr + caplog.text


@pytest.mark.data
def test_language_accuracy_on_sentences_of_another_corpus():
    data = os.environ.get("KDSERVE_DATA")
    if not data:
        pytest.skip("KDSERVE_DATA does not name the folder of the real corpora")
    from kdserve.distill.data.labelled import read_labelled

    classifier = Classifier.load("kdserve-langid")
    accuracy = {}
    for path in sorted((Path(data) / "classify" / "sib200").glob("test.*.tsv.gz")):
        language = path.name.split(".")[1]
        texts = read_labelled(path, language=language).texts
        accuracy[language] = np.mean([found.label == language for found in classifier.classify(texts)])
    assert np.mean(list(accuracy.values())) >= 0.97
