from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from sentence_transformers import SentenceTransformer

from kdserve.errors import DataError, FolderError
from kdserve.export import ExportSettings, export_bundle, neutralise, read_pairs, require_bundle_of
from kdserve.loading import open_model
from kdserve.runtime import Encoder
from kdserve.samples import parallel

PAIRS = {code: list(zip(parallel()[code], parallel()["en"], strict=True)) for code in ("de", "ru", "ja")}


def shift(vectors: np.ndarray, sources: np.ndarray) -> float:
    return float(np.linalg.norm(vectors.mean(axis=0) - sources.mean(axis=0)))


def test_languages_no_longer_lie_apart_and_the_bundle_follows(transformer: Path, tmp_path: Path):
    before = open_model(str(transformer))
    report = neutralise(transformer, tmp_path / "neutral", embedder=before, pairs=PAIRS, directions=3)
    after = SentenceTransformer(str(tmp_path / "neutral"), device="cpu")
    for code, pairs in PAIRS.items():
        texts, sources = map(list, zip(*pairs, strict=True))
        apart = shift(before.encode_document(texts), before.encode_document(sources))
        assert report.before[code] == pytest.approx(apart, abs=2e-3)
        assert shift(*(after.encode(part, show_progress_bar=False) for part in (texts, sources))) < 0.25 * apart
        assert report.after[code] < 0.1 * apart
    export_bundle(tmp_path / "neutral", tmp_path / "bundle", settings=ExportSettings(precision="fp32"))
    texts = [text for text, _ in PAIRS["de"]][:20]
    expected = after.encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(Encoder.load(tmp_path / "bundle").encode_document(texts), expected, atol=1e-5)
    graph, width = onnx.load(tmp_path / "bundle" / "model.onnx").graph, before.dim
    stored = {tensor.name: list(tensor.dims) for tensor in graph.initializer if tensor.name.startswith("dense")}
    assert list(stored.values()) == [[width, 3], [3, width]]  # not the whole matrix


def test_too_few_pairs_and_too_many_directions_are_refused(static: Path, tmp_path: Path):
    embedder = open_model(str(static))
    with pytest.raises(DataError, match="de has 3 pairs"):
        neutralise(static, tmp_path / "out", embedder=embedder, pairs={"de": PAIRS["de"][:3]}, directions=1)
    with pytest.raises(DataError, match="3 languages have fewer than 7 directions"):
        neutralise(static, tmp_path / "out", embedder=embedder, pairs=PAIRS, directions=7)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FolderError, match=r"lies inside .*, which would be copied into itself"):
        neutralise(static, static / "inside", embedder=embedder, pairs=PAIRS, directions=1)
    assert not (static / "inside").exists()


def test_a_bundle_of_another_model_is_refused(static: Path, transformer: Path, tmp_path: Path):
    export_bundle(static, tmp_path / "bundle", settings=ExportSettings(precision="fp32"))
    require_bundle_of(tmp_path / "bundle", static)
    with pytest.raises(FolderError, match=r"bundle was not exported from .*; leave out --bundle"):
        require_bundle_of(tmp_path / "bundle", transformer)


def test_pairs_are_read_by_language_and_a_line_of_another_form_is_named(tmp_path: Path):
    path = tmp_path / "pairs.tsv"
    path.write_text("de\tHallo\tHello\nfr\tSalut\tHi\nde\tTag\tDay\n", encoding="utf-8")
    assert read_pairs(path, most=1) == {"de": [("Hallo", "Hello")], "fr": [("Salut", "Hi")]}
    path.write_bytes("de\tHal\u2028lo\tHello\r\n\r\n".encode())
    assert read_pairs(path, most=1) == {"de": [("Hal\u2028lo", "Hello")]}
    path.write_bytes(b"de\tT\xfcr\tdoor\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_pairs(path, most=1)
    path.write_text("de\tHallo\tHello\nde\tHallo\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: 2 cells"):
        read_pairs(path, most=9)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="is empty"):
        read_pairs(path, most=9)
