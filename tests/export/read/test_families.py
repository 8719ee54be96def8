"""Folders that kdserve did not make: their vectors survive the export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
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


FAMILIES = ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet"]
PRE_NORM = ["t5", "t5-gated", "umt5", "modernbert", "modernbert-biases"]


@pytest.mark.parametrize("family", FAMILIES + PRE_NORM)
def test_every_family_keeps_its_vectors(family: str, tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / family, family=family)
    exact, rounded = export(source, tmp_path / "fp32", "fp32"), export(source, tmp_path / "int8", "int8")
    expected = expect(source, "passage: ")
    np.testing.assert_allclose(exact.encode_document(TEXTS), expected, atol=1e-5)
    assert np.sum(rounded.encode_document(TEXTS) * expected, axis=1).min() > 0.995


@pytest.mark.parametrize("family", ["mpnet", *PRE_NORM])
def test_a_long_text_keeps_its_vector_alone_and_among_others(family: str, tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / family, family=family)
    texts = [" ".join(TEXTS[i : i + 1 + i % 5])[:90] for i in range(40)]
    expected = SentenceTransformer(str(source), device="cpu").encode(
        texts, normalize_embeddings=True, prompt="passage: "
    )
    for precision in ("fp32", "int8"):
        encoder = export(source, tmp_path / precision, precision)
        assert max(encoder.count_tokens(texts)) > 48  # past the window and the last bucket
        together = encoder.encode_document(texts)
        assert together.tobytes() == np.concatenate([encoder.encode_document([text]) for text in texts]).tobytes()
        assert np.sum(together * expected, axis=1).min() > (1 - 1e-6 if precision == "fp32" else 0.99)


@pytest.mark.parametrize("family", ["mpnet", "t5-gated", "modernbert"])
@pytest.mark.parametrize("precision", ["fp16", "w8"])
def test_other_precisions_serve_every_kind_of_body(family: str, precision: str, tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / family, family=family)
    vectors = export(source, tmp_path / "bundle", precision).encode_document(TEXTS)
    assert np.sum(vectors * expect(source, "passage: "), axis=1).min() > 0.999


def test_a_body_without_a_graph_is_named_with_those_that_have_one(tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps({**config, "is_decoder": True}), encoding="utf-8")
    with pytest.raises(FolderError, match="no graph here; BERT, RoBERTa"):
        export(source, tmp_path / "bundle", "fp32")


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


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layer.0.output.LayerNorm.weight"))
    save_file(tensors | {name: np.full_like(tensors[name], np.nan)}, source / "model.safetensors")
    with pytest.raises(FolderError, match=rf"NaN or infinity in .*{name}"):
        export(source, tmp_path / "bundle", "fp32")
    assert not (tmp_path / "bundle").exists()
