"""Bundles that write: an encoder, a decoder, and the search for the best output."""

from kdserve.runtime.sequence.settings import Generation, TranslatorSettings
from kdserve.runtime.sequence.translator import Translator

__all__ = ["Generation", "Translator", "TranslatorSettings"]
