from __future__ import annotations

import numpy as np
import pytest
from known_vectors import KnownVectors

from kdserve.errors import DataError, EncodeError
from kdserve.evaluate import Remembering, find_translations, nearest_share, translation, translation_accuracy
from kdserve.vectors import checked


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_counts_each_direction_on_its_own():
    embedder = KnownVectors(
        {"ja": [1, 0], "nein": [0, 1], "vielleicht": [1, 0.9], "yes": [1, 0], "no": [0.1, 1], "maybe": [1, 0.2]}
    )
    accuracy = translation_accuracy(embedder, ["ja", "nein", "vielleicht"], ["yes", "no", "maybe"])
    # forward: "vielleicht" (42°) lies nearer to "maybe" (11°) than to "no" (84°); backward: "maybe" nearer to "ja" (0°)
    assert accuracy.num_pairs == 3
    assert accuracy.forward == 1.0
    assert accuracy.backward == pytest.approx(2 / 3)
    assert accuracy.mean == pytest.approx(5 / 6)


@pytest.mark.parametrize("block", [1, 3, 7, 50, 64])
def test_blocks_of_any_size_agree_with_one_big_product(monkeypatch, block):
    random = np.random.default_rng(1)
    source = unit(random.standard_normal((50, 8)))
    target = unit(source + 0.9 * random.standard_normal((50, 8)))
    scores = source @ target.T
    monkeypatch.setattr(translation, "BLOCK", block)
    accuracy = nearest_share(source, target)
    assert accuracy.forward == np.mean(scores.argmax(axis=1) == np.arange(50))
    assert accuracy.backward == np.mean(scores.argmax(axis=0) == np.arange(50))
    assert 0.1 < accuracy.forward < 0.95  # neither trivial nor hopeless, or the test says nothing


@pytest.mark.parametrize("block", [2, 10])
def test_a_collapsed_model_scores_one_in_n(monkeypatch, block):
    monkeypatch.setattr(translation, "BLOCK", block)
    same = np.tile(unit(np.ones((1, 4))), (10, 1))
    accuracy = nearest_share(same, same)
    assert (accuracy.forward, accuracy.backward) == (0.1, 0.1)


@pytest.mark.parametrize("targets", [["yes", "no"], []])
def test_refuses_sides_that_do_not_match(targets):
    with pytest.raises(DataError, match=f"1 sources stand against {len(targets)} targets"):
        translation_accuracy(KnownVectors({"yes": [1, 0]}), ["yes"], targets)


def test_refuses_to_measure_nan():
    embedder = KnownVectors({"yes": [1, 0], "no": [1, 1]})
    embedder.table["no"] = np.array([np.nan, 1], np.float32)
    with pytest.raises(EncodeError, match="NaN or infinity for text 1 of 2"):
        translation_accuracy(embedder, ["yes", "no"], ["yes", "no"])


def test_refuses_vectors_of_another_shape():
    with pytest.raises(EncodeError, match=r"shape \(2, 3\) for 2 texts of width 4"):
        checked(np.zeros((2, 3), np.float32), 2, 4)


def test_remembering_embeds_each_text_once_and_changes_nothing():
    plain = KnownVectors({"a": [1, 0], "b": [0, 1], "c": [1, 1]})
    shown: list[tuple[str, int, int]] = []
    remembering = Remembering(plain, progress=lambda *args: shown.append(args))
    first = remembering.encode_query(["a", "b", "a"])
    second = remembering.encode_query(["c", "b"])
    assert plain.asked == [["a", "b"], ["c"]]
    np.testing.assert_array_equal(first, plain.encode_query(["a", "b", "a"]))
    np.testing.assert_array_equal(second, plain.encode_query(["c", "b"]))
    assert remembering.encode_document([]).shape == (0, 2)
    assert shown == [("embed", 2, 2), ("embed", 1, 1)]
    assert (remembering.dim, remembering.fingerprint) == (2, "known")


@pytest.mark.parametrize("block", [256, 3])
def test_translations_are_looked_for_in_one_pool(monkeypatch, block):
    monkeypatch.setattr(translation, "BLOCK", block)
    random = np.random.default_rng(1)
    own = unit(random.standard_normal((9, 6)))
    source = np.arange(9).repeat(3)
    foreign = unit(own[source] + 0.6 * random.standard_normal((27, 6)))
    cosines = foreign @ own.T
    expected = []
    for pair, wanted in enumerate(source.tolist()):
        others = source != wanted  # the source's translations into other languages are no wrong answers
        to_source = int(cosines[pair].argmax()) == wanted
        to_translation = bool((cosines[others, wanted] < cosines[pair, wanted]).all())
        expected.append((to_source + to_translation) / 2)
    assert find_translations(foreign, own, source).tolist() == expected
    assert {0.5, 1.0} <= set(expected)


def test_a_student_that_is_its_teacher_finds_all_and_one_of_nan_nothing():
    own = unit(np.random.default_rng(0).standard_normal((5, 8)))
    assert find_translations(own, own, np.arange(5)).tolist() == [1.0] * 5
    assert find_translations(own * np.nan, own, np.arange(5)).tolist() == [0.0] * 5
