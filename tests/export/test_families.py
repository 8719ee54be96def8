"""Folders that kdserve did not make: their vectors survive the export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny_students import LANGUAGES, tiny_plain

from kdserve.errors import FolderError
from kdserve.export import ExportSettings, GateTexts, export_bundle
from kdserve.runtime import Encoder
from kdserve.samples import parallel

TEXTS = [text for code in LANGUAGES for text in parallel()[code][:30] if len(text) < 35]  # none is cut
GATE = GateTexts(by_language={"en": TEXTS[:10]}, parallel=False)


def export(source: Path, out: Path, precision: str) -> Encoder:
    settings = ExportSettings(precision=precision, languages=("en", "de"))
    export_bundle(source, out, settings=settings, texts=GATE)
    return Encoder.load(out)


def expect(source: Path, prompt: str) -> np.ndarray:
    model = SentenceTransformer(str(source), device="cpu")
    return model.encode(TEXTS, prompt=prompt, normalize_embeddings=True, show_progress_bar=False)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert"])
def test_every_family_keeps_its_vectors(family: str, tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / family, family=family)
    exact, rounded = export(source, tmp_path / "fp32", "fp32"), export(source, tmp_path / "int8", "int8")
    expected = expect(source, "passage: ")
    np.testing.assert_allclose(exact.encode_document(TEXTS), expected, atol=1e-5)
    assert np.sum(rounded.encode_document(TEXTS) * expected, axis=1).min() > 0.995


@pytest.mark.parametrize(("pooling", "dense"), [("cls", False), ("lasttoken", False), ("mean", True), ("cls", True)])
def test_every_pooling_keeps_its_vectors(pooling: str, dense: bool, tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source", pooling=pooling, dense=dense)
    encoder = export(source, tmp_path / "bundle", "fp32")
    assert encoder.dim == (32 if dense else 64)
    np.testing.assert_allclose(encoder.encode_document(TEXTS), expect(source, "passage: "), atol=1e-5)


def test_prompts_travel_in_the_manifest(tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source")
    encoder = export(source, tmp_path / "bundle", "fp32")
    np.testing.assert_allclose(encoder.encode_query(TEXTS), expect(source, "query: "), atol=1e-5)
    assert encoder.languages == ("en", "de")
    assert encoder.max_tokens == 64


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(FolderError, match="pickled weights are never read"):
        export(source, tmp_path / "bundle", "fp32")
