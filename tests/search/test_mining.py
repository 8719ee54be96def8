"""Bitext mining: the pairs that belong together come first, the rest does not come."""

import random

import numpy as np
import pytest

from kdserve import samples
from kdserve.errors import DataError, FolderError
from kdserve.search import mine, mining


class Translating:
    """Gives the two languages of the sample corpus nearly the same vectors, and everything a common direction."""

    dim = 32
    fingerprint = "1" * 64

    def __init__(self):
        self.meanings = {}
        for language in ("de", "fr"):
            self.meanings.update({text: n for n, text in enumerate(samples.parallel()[language])})

    def encode_document(self, texts):
        rows = []
        for text in texts:
            meaning = np.random.default_rng(self.meanings[text]).standard_normal(self.dim)
            accent = np.random.default_rng(abs(hash(text))).standard_normal(self.dim)
            rows.append(meaning + 0.5 * accent + 1.5)
        vectors = np.array(rows, np.float32).reshape(len(texts), self.dim)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_query = encode_document


@pytest.fixture
def sides():
    """200 sentences a side, half of which have their translation on the other side, shuffled, with repetitions."""
    german, french = samples.parallel()["de"], samples.parallel()["fr"]
    a, b = german[:200], french[100:300]
    random.Random(0).shuffle(a)
    random.Random(1).shuffle(b)
    right = {(german[n], french[n]) for n in range(100, 200)}
    return [*a, "", *a[:20]], [*b, b[0], "  "], right


def test_true_pairs_come_first(sides):
    a, b, right = sides
    pairs = list(mine(a, b, Translating(), min_score=0.0))
    found = [(pair.source, pair.target) for pair in pairs]
    assert sum(pair in right for pair in found[:100]) >= 95
    assert [pair.score for pair in pairs] == sorted((pair.score for pair in pairs), reverse=True)


def test_a_sentence_is_used_once(sides):
    a, b, _ = sides
    pairs = list(mine(a, b, Translating(), min_score=0.0))
    assert len({pair.source for pair in pairs}) == len({pair.target for pair in pairs}) == len(pairs)


def test_margins_are_those_of_the_paper(sides):
    a, b, _ = sides
    a, b = list(dict.fromkeys(filter(None, a))), list(dict.fromkeys(text for text in b if text.strip()))
    encoder = Translating()
    cosines = encoder.encode_document(a) @ encoder.encode_document(b).T
    mean_a = np.sort(cosines, axis=1)[:, -4:].mean(axis=1)
    mean_b = np.sort(cosines, axis=0)[-4:].mean(axis=0)
    margins = cosines / ((mean_a[:, None] + mean_b[None, :]) / 2)
    for pair in list(mine(a, b, encoder, k=4, min_score=1.06)):
        assert pair.score == pytest.approx(margins[a.index(pair.source), b.index(pair.target)], abs=1e-4)


def test_large_sides_go_through_an_index_and_find_the_same(sides, monkeypatch):
    a, b, _ = sides
    exact = list(mine(a, b, Translating()))
    monkeypatch.setattr(mining, "EXACT_ROWS", 50)
    monkeypatch.setattr(mining, "READ_SHARE", 1)
    found = list(mine(a, b, Translating()))
    assert [(pair.source, pair.target) for pair in found] == [(pair.source, pair.target) for pair in exact]
    assert [pair.score for pair in found] == pytest.approx([pair.score for pair in exact], abs=1e-5)


def test_an_empty_side_and_no_neighbours_are_errors():
    with pytest.raises(DataError, match="the targets have no sentences; give both sides some"):
        list(mine([samples.parallel()["de"][0]], ["", " "], Translating()))
    with pytest.raises(DataError, match="k is 0"):
        list(mine(["a"], ["b"], Translating(), k=0))
    with pytest.raises(DataError, match="min_score is NaN"):
        list(mine(["a"], ["b"], Translating(), min_score=float("nan")))
    with pytest.raises(TypeError, match="a sentence is int, not str"):
        list(mine([1], ["b"], Translating()))
    with pytest.raises(TypeError, match="got a str; put it into a list"):
        list(mine("a sentence", ["b"], Translating()))


def test_a_full_temporary_folder_is_told_by_its_own_name(sides, tmp_path, monkeypatch, file_size_limit):
    a, b, _ = sides
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = rf"temporary files cannot be written to {tmp_path} \(File too large\).*set TMPDIR"
    with file_size_limit(20_000), pytest.raises(FolderError, match=told):
        list(mine(a, b, Translating()))
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(FolderError, match=r"no folder for temporary files can be written \(No such file.*set TMPDIR"):
        list(mine(a, b, Translating()))
