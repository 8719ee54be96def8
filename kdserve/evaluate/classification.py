"""How good a classifier is: accuracy, macro-F1, and whether its probabilities can be believed.

N texts, K labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdserve.errors import DataError

_BINS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationFigures:
    """Accuracy, the mean of the labels' F1, and the expected calibration error; all between 0 and 1."""

    accuracy: float
    macro_f1: float
    calibration_error: float
    num_texts: int


def measure_classification(
    probabilities: npt.NDArray[np.float32], expected: Sequence[str], labels: Sequence[str]
) -> ClassificationFigures:
    """Compare probabilities (N, K) with the right labels. F1 is over the labels that occur in `expected`.

    Raises:
        DataError: no text, other numbers of texts on both sides, or a label that the classifier does not know.
    """
    if not len(expected) or len(expected) != len(probabilities):
        raise DataError(f"{len(probabilities)} texts were classified and {len(expected)} labels given; give one each")
    place = {label: number for number, label in enumerate(labels)}
    strangers = sorted(set(expected) - set(place))
    if strangers:
        raise DataError(f"the label {strangers[0]!r} is none of the classifier's ({', '.join(labels)})")
    right = np.array([place[label] for label in expected])
    named = probabilities.argmax(axis=1)
    return ClassificationFigures(
        accuracy=float((named == right).mean()),
        macro_f1=float(np.mean([_f1(named == number, right == number) for number in np.unique(right)])),
        calibration_error=calibration_error(probabilities.max(axis=1), named == right),
        num_texts=len(expected),
    )


def calibration_error(confidence: npt.NDArray[np.float32], is_right: npt.NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over ten equal bins, weighted by their texts (Guo et al. 2017)."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(float(is_right[bins == number].mean()) - float(confidence[bins == number].mean())) * float(share)
        for number, share in enumerate(np.bincount(bins, minlength=_BINS) / len(bins))
        if share
    ]
    return float(sum(gaps))


def _f1(named: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> float:
    return float(2 * (named & right).sum() / (named.sum() + right.sum()))
