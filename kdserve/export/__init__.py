"""From a student folder to a quantised, verified ONNX bundle that needs no torch."""

from kdserve.export.attempts import Attempt, Export
from kdserve.export.bundle import export_bundle
from kdserve.export.classifier import export_classifier, is_classifier
from kdserve.export.classifier_card import Agreement
from kdserve.export.evaluated import EvaluatedLanguage, Evaluation
from kdserve.export.gate import FidelityReport, LanguageFidelity
from kdserve.export.neutral import NeutralReport, neutralise, read_pairs, require_bundle_of
from kdserve.export.reopen import reopen_bundle
from kdserve.export.sequence.bundle import export_translator
from kdserve.export.sequence.gate import GatePairs, WritingFloors, WritingReport, pairs_for_gate
from kdserve.export.sequence.student import is_sequence
from kdserve.export.settings import ExportSettings
from kdserve.export.texts import GateTexts, read_gate_texts
from kdserve.export.trim import LanguageCoverage, TrimReport, trim_vocabulary

__all__ = [
    "Agreement",
    "Attempt",
    "EvaluatedLanguage",
    "Evaluation",
    "Export",
    "ExportSettings",
    "FidelityReport",
    "GatePairs",
    "GateTexts",
    "LanguageCoverage",
    "LanguageFidelity",
    "NeutralReport",
    "TrimReport",
    "WritingFloors",
    "WritingReport",
    "export_bundle",
    "export_classifier",
    "export_translator",
    "is_classifier",
    "is_sequence",
    "neutralise",
    "pairs_for_gate",
    "read_gate_texts",
    "read_pairs",
    "reopen_bundle",
    "require_bundle_of",
    "trim_vocabulary",
]
