"""The students that ship are what their cards say."""

from __future__ import annotations

import json
import os
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from kdserve import Encoder, samples
from kdserve.evaluate import evaluate_samples, evaluate_translation, read_tatoeba
from kdserve.runtime import published_names
from kdserve.runtime.published import find_bundle

MAIN = "de fr es ru cs tr zh ja it pt nl sv uk pl fi ko hu ro da ar he bg el".split()  # noqa: SIM905
ROOT = Path(__file__).parent.parent
SEARCHERS = ["kdserve-base", "kdserve-mini"]
SIZE_LIMITS = {"kdserve-base": 62_000_000, "kdserve-mini": 40_000_000}
LEAST_ANSWERS = {"kdserve-static": 0.4}
"""Of 40 questions; its card says that the student before it, of another teacher, answered more of these."""


def test_the_students_are_published():
    assert {"kdserve-static", *SEARCHERS} <= set(published_names())


@pytest.mark.parametrize("name", published_names())
def test_a_published_bundle_is_small_and_finds_translations_and_answers(name: str):
    folder = find_bundle(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= SIZE_LIMITS.get(name, 30_000_000)
    figures = evaluate_samples(Encoder.load(name))
    assert figures.translation.summary().mean >= 0.88
    assert figures.translation.summary().worst >= 0.80
    assert figures.retrieval.accuracy_at_1 >= LEAST_ANSWERS.get(name, 0.5)


@pytest.mark.parametrize("name", published_names())
def test_a_published_bundle_keeps_one_vector_a_text(name: str):
    encoder = Encoder.load(name, num_threads=2)
    texts = [text for sentences in samples.parallel().values() for text in sentences[::9]]
    together = encoder.encode_document(texts)
    assert np.array_equal(together[::-1], encoder.encode_document(texts[::-1]))
    for position in range(0, len(texts), 17):
        assert np.array_equal(together[position], encoder.encode_document([texts[position]])[0])


def test_every_token_of_the_static_student_is_a_text_of_its_own():
    vocabulary = json.loads((find_bundle("kdserve-static") / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    texts = [token.replace("▁", " ") for token, _ in vocabulary]
    lengths = np.linalg.norm(Encoder.load("kdserve-static").encode_document(texts), axis=1)
    assert np.isclose(lengths, 1, atol=1e-3).mean() > 0.999
    assert set(lengths[lengths < 0.5]) <= {0}


@pytest.mark.parametrize("name", published_names())
def test_a_published_bundle_stayed_with_its_student(name: str):
    fidelity = Encoder.load(name).settings.fidelity
    text = json.dumps(fidelity, default=str)
    assert '"mean_cosine"' in text
    for language in fidelity["languages"]:
        assert language["mean_cosine"] >= 0.998
        assert language["min_cosine"] >= 0.985


@pytest.mark.parametrize("name", SEARCHERS)
def test_business_sentences_find_their_translations_in_every_pair_of_languages(name: str):
    header, *rows = (ROOT / "tests" / "business_sentences.tsv").read_text(encoding="utf-8").splitlines()
    languages = dict(zip(header.split("\t"), zip(*(row.split("\t") for row in rows), strict=True), strict=True))
    encoder = Encoder.load(name)
    vectors = {language: encoder.encode_query(sentences) for language, sentences in languages.items()}
    found = [
        (vectors[one] @ vectors[other].T).argmax(axis=1) == np.arange(len(rows))
        for one, other in permutations(vectors, 2)
    ]
    assert np.mean(found) >= 0.95


@pytest.mark.data
@pytest.mark.parametrize(("name", "mean", "german"), [("kdserve-static", 0.84, 0.92), ("kdserve-mini", 0.91, 0.97)])
def test_tatoeba_accuracy(name: str, mean: float, german: float):
    data = os.environ.get("KDSERVE_DATA")
    if not data:
        pytest.skip("KDSERVE_DATA does not name the folder of the real corpora")
    pairs = read_tatoeba(Path(data) / "eval" / "tatoeba-v1", languages=MAIN)
    (section,) = evaluate_translation(Encoder.load(name), list(pairs.values()))
    assert section.summary().mean >= mean
    assert section.figures["de"] >= german
