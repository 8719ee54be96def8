from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdserve.errors import DataError, RecipeError
from kdserve.export import Evaluation, ExportSettings, FidelityReport, GateTexts, read_gate_texts
from kdserve.export.evaluated import compare_evaluations
from kdserve.export.gate import measure_fidelity
from kdserve.export.texts import probe_texts
from kdserve.precisions import PRECISIONS

VECTORS = np.eye(4, dtype=np.float32)
EXPECTED = {"en": VECTORS, "de": VECTORS}


def judge(german: np.ndarray, **floors: float) -> FidelityReport:
    settings = ExportSettings(**floors)
    found = {"en": VECTORS, "de": german}
    return measure_fidelity(EXPECTED, found, parallel=True, precision=PRECISIONS["int8"], settings=settings)


def test_equal_vectors_pass_with_full_marks() -> None:
    report = judge(VECTORS)
    english, german = report.languages
    assert (english.mean_cosine, english.min_cosine, english.accuracy_bundle) == (1.0, 1.0, None)
    assert (german.accuracy_student, german.accuracy_bundle) == (100.0, 100.0)
    assert (report.max_difference, report.refusal) == (0.0, None)


def bad_text(cosine: float) -> np.ndarray:
    vectors = VECTORS.copy()
    vectors[3] = [np.sqrt(1 - cosine**2), 0, 0, cosine]
    return vectors


def test_a_language_below_the_mean_is_named_with_its_figure() -> None:
    assert judge(bad_text(0.8)).refusal == "de mean cosine 0.95000 < 0.998"


def test_one_bad_text_is_enough() -> None:
    assert judge(bad_text(0.8), min_mean_cosine=0.9).refusal == "de minimum cosine 0.80000 < 0.985"


def test_lost_retrieval_among_the_gate_s_own_texts_is_recorded() -> None:
    report = judge(bad_text(0.6), min_mean_cosine=0.0, min_cosine=0.0)
    assert report.languages[1].accuracy_bundle == pytest.approx(100 * 7 / 8)
    assert report.refusal is None


def evaluated(lost: float, **settings: float) -> FidelityReport:
    before = Evaluation(retrieval={"de": 92.0, "fr": 80.0}, spearman={"de": 70.0})
    after = Evaluation(retrieval={"de": 92.0 - lost, "fr": 81.0}, spearman={"de": 60.0})
    return measure_fidelity(
        EXPECTED,
        EXPECTED,
        parallel=True,
        precision=PRECISIONS["fp32"],
        settings=ExportSettings(**settings),
        evaluated=compare_evaluations(before, after),
    )


def test_lost_retrieval_on_evaluation_files_is_refused_beyond_three_tenths_of_a_point() -> None:
    assert evaluated(0.3).evaluated[0].retrieval_bundle == pytest.approx(91.7)
    assert evaluated(0.3).refusal is None
    assert evaluated(0.35).refusal == "de retrieval fell by 0.35 points > 0.3"
    assert "| fr | 80.00 | 81.00 | – | – |" in evaluated(0.35, max_retrieval_loss=1.0).table()


def test_a_figure_that_is_no_number_never_passes() -> None:
    assert evaluated(float("nan")).refusal == "de retrieval fell by nan points > 0.3"


def test_int8_has_a_floor_of_its_own() -> None:
    floors = {name: ExportSettings().mean_cosine_floor(precision) for name, precision in PRECISIONS.items()}
    assert floors == {**dict.fromkeys(PRECISIONS, 0.999), "int8": 0.998}
    assert ExportSettings(min_mean_cosine=0.9).mean_cosine_floor(PRECISIONS["int8"]) == 0.9


def test_vectors_that_are_no_numbers_never_pass() -> None:
    assert judge(VECTORS * np.nan).refusal == "de mean cosine nan < 0.998"


def test_texts_come_by_language_or_all_together(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text("\nde\tein Haus\nen\ta house\nde\tein See\n", encoding="utf-8")
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


def test_an_unknown_precision_is_refused_before_anything_is_read() -> None:
    with pytest.raises(RecipeError, match="there is no precision 'int7'; choose one of int8, "):
        ExportSettings(precision="int7")


def test_long_texts_capitals_and_queries_are_judged_like_languages() -> None:
    probes = {"long texts": (VECTORS, bad_text(0.8)), "queries": (VECTORS, VECTORS)}
    report = measure_fidelity(
        EXPECTED, EXPECTED, parallel=True, precision=PRECISIONS["fp32"], settings=ExportSettings(), probes=probes
    )
    assert [row["language"] for row in report.to_json()["probes"]] == ["long texts", "queries"]
    assert report.refusal == "long texts mean cosine 0.95000 < 0.999"


@pytest.mark.parametrize("max_tokens", [16, 128, 8192])
def test_probes_are_longer_than_any_limit_and_have_capitals_whatever_the_gate_s_own_texts(max_tokens: int) -> None:
    chinese = GateTexts(by_language={"zh": ["面包还是热的", "火车晚点了"]}, parallel=False)
    long, capitals, queries = probe_texts(chinese, max_tokens=max_tokens)
    assert min(len(text.split()) for text in long.texts) > max_tokens
    assert len({text[:40] for text in long.texts}) == len(long.texts) >= 2
    assert sum(text.isupper() for text in capitals.texts) >= 20
    assert (queries.role, "面包还是热的" in queries.texts) == ("query", True)
