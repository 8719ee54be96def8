from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdserve.datatypes import no_progress
from kdserve.errors import DataError, FidelityError, RecipeError
from kdserve.export import ExportSettings, GateTexts, parse_precision, read_gate_texts
from kdserve.export.gate import check_fidelity, measure_fidelity

VECTORS = np.eye(4, dtype=np.float32)
TEXTS = GateTexts(by_language={"en": list("abcd"), "de": list("abcd")}, parallel=True)


def test_equal_vectors_pass_with_full_marks() -> None:
    report = measure_fidelity(
        lambda _: VECTORS, lambda _: VECTORS, TEXTS, settings=ExportSettings(), progress=no_progress
    )
    check_fidelity(report)
    english, german = report.languages
    assert (english.mean_cosine, english.min_cosine, english.accuracy_bundle) == (1.0, 1.0, None)
    assert (german.accuracy_student, german.accuracy_bundle) == (100.0, 100.0)
    assert report.max_difference == 0.0


def test_one_bad_text_shows_in_its_own_language_only() -> None:
    vectors = {"en": VECTORS, "de": VECTORS.copy()}
    vectors["de"][3] = [0.6, 0, 0, 0.8]
    answers = iter(vectors.values())
    report = measure_fidelity(
        lambda _: VECTORS, lambda _: next(answers), TEXTS, settings=ExportSettings(), progress=no_progress
    )
    assert report.languages[1].min_cosine == pytest.approx(0.8)
    assert report.languages[1].mean_cosine == pytest.approx(0.95)
    with pytest.raises(FidelityError, match=r"floor allows: de mean cosine 0\.95000 < 0\.998; nothing"):
        check_fidelity(report)


def test_vectors_that_are_no_numbers_never_pass() -> None:
    report = measure_fidelity(
        lambda _: VECTORS, lambda _: VECTORS * np.nan, TEXTS, settings=ExportSettings(), progress=no_progress
    )
    with pytest.raises(FidelityError, match="en mean cosine nan"):
        check_fidelity(report)


def test_texts_come_by_language_or_all_together(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text("de\tein Haus\nen\ta house\nde\tein See\n", encoding="utf-8")
    assert read_gate_texts(path).by_language == {"de": ["ein Haus", "ein See"], "en": ["a house"]}
    path.write_text("a house\n\na lake\n", encoding="utf-8")
    assert read_gate_texts(path).by_language == {"all": ["a house", "a lake"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"de\tein Haus\nno tab\n", "line 2: expected language<TAB>text"),
        (b"", "holds no text"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "texts").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_gate_texts(tmp_path / "texts")


def test_an_unknown_precision_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="choose one of fp32, int8"):
        parse_precision("int7")
