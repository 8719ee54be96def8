"""One student, one precision, one graph."""

from __future__ import annotations

from pathlib import Path

import onnx

from kdserve.errors import FolderError
from kdserve.export.graphs.arithmetic import UNCALIBRATED
from kdserve.export.graphs.optimum import optimum_graph
from kdserve.export.graphs.smoothing import smoothed_int8_graph
from kdserve.export.graphs.static import static_graph
from kdserve.export.graphs.table import BLOCK
from kdserve.export.graphs.transformer import transformer_graph
from kdserve.export.read.student import StudentFolder
from kdserve.export.read.weights import StaticWeights, TransformerWeights
from kdserve.export.texts import calibration_batches
from kdserve.precisions import Precision, TableBits, named_precisions


def build_graph(
    student: StudentFolder, precision: Precision, tokenizer: Path, *, optimum_python: Path | None
) -> onnx.ModelProto:
    """Write a student's graph; `tokenizer` is the bundle's file, for the texts that int8 is calibrated on.

    Raises:
        FolderError: the student is of a family that has no hand-written graph.
    """
    require_graph(student, optimum_python=optimum_python)
    if optimum_python:
        return optimum_graph(student, optimum_python)
    weights, bits = student.weights, _table_bits(student, precision)
    if isinstance(weights, StaticWeights):
        return static_graph(weights, table_bits=bits, half=precision.half)
    assert weights is not None
    if precision.arithmetic == "token-int8":
        return _int8_graph(student, weights, bits, tokenizer)
    return transformer_graph(weights, UNCALIBRATED[precision.arithmetic](), table_bits=bits, half=precision.half)


def candidates(student: StudentFolder, name: str) -> list[Precision]:
    """The precisions that `name` stands for, without those that would give this student the same graph again."""
    found = named_precisions(name)
    if not isinstance(student.weights, StaticWeights):
        return list(found)
    graphs: dict[tuple[int, bool], Precision] = {}
    for precision in found:
        graphs.setdefault((precision.table_bits, precision.half), precision)
    return list(graphs.values())


def require_graph(student: StudentFolder, *, optimum_python: Path | None) -> None:
    """Refuse a student that no bundle can follow, and say of a body without a graph what it is.

    Raises:
        FolderError: with the part of the folder that is not known.
    """
    if student.refusal:
        raise FolderError(f"{student.folder} cannot be exported: it has {student.refusal}")
    if student.no_graph and optimum_python is None:
        raise FolderError(
            f"{student.folder} cannot be exported: {student.no_graph} has no graph here; BERT, RoBERTa, XLM-R, "
            f"DistilBERT, MPNet, ModernBERT and T5 encoders have one; --exporter optimum knows others"
        )


def _table_bits(student: StudentFolder, precision: Precision) -> TableBits:
    bits = precision.table_bits if precision.table_bits == 32 else min(student.table_bits, precision.table_bits)
    width = student.weights.table.shape[1] if student.weights else 0
    if bits == 4 and width % BLOCK:
        raise FolderError(f"{student.folder} has a table {width} wide, which 4 bits cannot store; choose int8 or wider")
    return bits


def _int8_graph(
    student: StudentFolder, weights: TransformerWeights, bits: TableBits, tokenizer: Path
) -> onnx.ModelProto:
    ranges, development = calibration_batches(student.languages, tokenizer)
    return smoothed_int8_graph(weights, ranges=ranges, development=development, table_bits=bits).model
