from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdserve.errors import DataError, FidelityError, RecipeError
from kdserve.export import ExportSettings, FidelityReport, parse_precision, read_gate_texts
from kdserve.export.gate import check_fidelity, measure_fidelity

VECTORS = np.eye(4, dtype=np.float32)
EXPECTED = {"en": VECTORS, "de": VECTORS}


def judge(german: np.ndarray, **floors: float) -> FidelityReport:
    report = measure_fidelity(EXPECTED, {"en": VECTORS, "de": german}, parallel=True, settings=ExportSettings(**floors))
    check_fidelity(report)
    return report


def test_equal_vectors_pass_with_full_marks() -> None:
    report = judge(VECTORS)
    english, german = report.languages
    assert (english.mean_cosine, english.min_cosine, english.accuracy_bundle) == (1.0, 1.0, None)
    assert (german.accuracy_student, german.accuracy_bundle) == (100.0, 100.0)
    assert report.max_difference == 0.0


def bad_text(cosine: float) -> np.ndarray:
    vectors = VECTORS.copy()
    vectors[3] = [np.sqrt(1 - cosine**2), 0, 0, cosine]
    return vectors


def test_a_language_below_the_mean_is_named_with_its_figure() -> None:
    with pytest.raises(FidelityError, match=r"floor allows: de mean cosine 0\.95000 < 0\.998; nothing"):
        judge(bad_text(0.8))


def test_one_bad_text_is_enough() -> None:
    with pytest.raises(FidelityError, match=r"de minimum cosine 0\.80000 < 0\.985"):
        judge(bad_text(0.8), min_mean_cosine=0.9)


def test_lost_retrieval_is_refused_only_where_a_limit_is_set() -> None:
    floors = {"min_mean_cosine": 0.0, "min_cosine": 0.0}
    report = judge(bad_text(0.6), **floors)
    assert report.languages[1].accuracy_bundle == pytest.approx(100 * 7 / 8)
    with pytest.raises(FidelityError, match=r"de retrieval fell by 12\.50 points > 0\.3"):
        judge(bad_text(0.6), max_retrieval_loss=0.3, **floors)


def test_vectors_that_are_no_numbers_never_pass() -> None:
    with pytest.raises(FidelityError, match="de mean cosine nan"):
        judge(VECTORS * np.nan)


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
    with pytest.raises(RecipeError, match="choose one of fp32, fp16, w8, int8, int4, auto"):
        parse_precision("int7")
