"""From a student folder to a quantised, verified ONNX bundle that needs no torch."""

from kdserve.export.bundle import Attempt, Export, export_bundle
from kdserve.export.gate import FidelityReport, LanguageFidelity
from kdserve.export.settings import ExportSettings, Precision, PrecisionChoice, parse_precision
from kdserve.export.texts import GateTexts, read_gate_texts

__all__ = [
    "Attempt",
    "Export",
    "ExportSettings",
    "FidelityReport",
    "GateTexts",
    "LanguageFidelity",
    "Precision",
    "PrecisionChoice",
    "export_bundle",
    "parse_precision",
    "read_gate_texts",
]
