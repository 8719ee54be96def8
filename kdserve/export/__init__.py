"""From a student folder to a quantised, verified ONNX bundle that needs no torch."""

from kdserve.export.bundle import export_bundle
from kdserve.export.gate import FidelityReport, LanguageFidelity
from kdserve.export.settings import ExportSettings, Precision, parse_precision
from kdserve.export.texts import GateTexts, read_gate_texts

__all__ = [
    "ExportSettings",
    "FidelityReport",
    "GateTexts",
    "LanguageFidelity",
    "Precision",
    "export_bundle",
    "parse_precision",
    "read_gate_texts",
]
