"""The edge runtime: a verified bundle, a tokenizer, one ONNX session. No torch, no transformers."""

from kdserve.runtime.bundle import BundleSettings
from kdserve.runtime.classifier import Classifier, Prediction
from kdserve.runtime.encoder import Encoder
from kdserve.runtime.published import published_names
from kdserve.runtime.sequence import Translator
from kdserve.runtime.tokens import TokenizedTexts

__all__ = ["BundleSettings", "Classifier", "Encoder", "Prediction", "TokenizedTexts", "Translator", "published_names"]
