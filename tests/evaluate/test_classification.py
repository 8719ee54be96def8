from __future__ import annotations

import numpy as np
import pytest

from kdserve.errors import DataError
from kdserve.evaluate import calibration_error, measure_classification

ROWS = np.array([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1]], dtype=np.float32)


def test_figures_by_hand():
    figures = measure_classification(ROWS, ["a", "b", "b", "b"], ["a", "b", "c"])
    assert (figures.accuracy, figures.num_texts) == (0.75, 4)
    # a: one right of two named, F1 2/3; b: two right of two named and three to name, F1 4/5; c does not occur
    assert figures.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    # one text a bin: |1 - .9|, |0 - .8|, |1 - .6|, |1 - .7|
    assert figures.calibration_error == pytest.approx((0.1 + 0.8 + 0.4 + 0.3) / 4, abs=1e-6)


def test_a_confidence_that_is_right_so_often_has_no_calibration_error():
    confidence = np.full(10, 0.7, dtype=np.float32)
    assert calibration_error(confidence, np.arange(10) < 7) == pytest.approx(0, abs=1e-6)
    assert calibration_error(np.ones(4, dtype=np.float32), np.arange(4) < 1) == pytest.approx(0.75)


def test_labels_and_rows_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="the label 'z' is none of the classifier's"):
        measure_classification(ROWS, ["a", "b", "b", "z"], ["a", "b", "c"])
    with pytest.raises(DataError, match="4 texts were classified and 1 labels given"):
        measure_classification(ROWS, ["a"], ["a", "b", "c"])
    with pytest.raises(DataError, match="give one each"):
        measure_classification(ROWS[:0], [], ["a", "b", "c"])
