from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from sentence_transformers import SentenceTransformer
from tiny_classifiers import tiny_classifier
from tiny_students import LANGUAGES, tiny_plain

from kdserve.errors import DataError, FolderError
from kdserve.export import ExportSettings, export_bundle, neutralise, read_pairs, require_bundle_of
from kdserve.loading import open_model
from kdserve.manifest import read_manifest
from kdserve.model_settings import read_student_settings
from kdserve.modules import read_modules
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


def apart(model: Path, code: str) -> float:
    embedder = open_model(str(model))
    return shift(*(embedder.encode_document(list(part)) for part in zip(*PAIRS[code], strict=True)))


def test_a_static_student_stays_one_table(static: Path, tmp_path: Path):
    neutralise(static, tmp_path / "neutral", embedder=open_model(str(static)), pairs=PAIRS, directions=3)
    assert all(apart(tmp_path / "neutral", code) < 0.25 * apart(static, code) for code in PAIRS)
    assert [module.kind for module in read_modules(tmp_path / "neutral")] == ["StaticEmbedding", "Normalize"]
    export_bundle(tmp_path / "neutral", tmp_path / "bundle", settings=ExportSettings(precision="fp32"))
    texts = [text for text, _ in PAIRS["de"]][:20]
    found, expected = (open_model(str(tmp_path / name)).encode_document(texts) for name in ("bundle", "neutral"))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_folder_of_others_becomes_a_student_of_the_pairs_languages(tmp_path: Path):
    plain = tiny_plain(tmp_path / "plain", dense=True)
    neutralise(plain, tmp_path / "neutral", embedder=open_model(str(plain)), pairs=PAIRS, directions=3)
    assert all(apart(tmp_path / "neutral", code) < 0.25 * apart(plain, code) for code in PAIRS)
    settings = read_student_settings(tmp_path / "neutral")
    assert (settings.name, settings.dim, settings.languages) == ("neutral", 32, ("de", "ru", "ja"))


def test_a_student_keeps_its_languages_and_names_what_it_was(static: Path, tmp_path: Path):
    neutralise(static, tmp_path / "neutral", embedder=open_model(str(static)), pairs=PAIRS, directions=3)
    settings = read_student_settings(tmp_path / "neutral")
    assert (settings.languages, settings.weak_languages, settings.widths) == (tuple(LANGUAGES), ("ja",), (32,))
    parents = read_manifest(tmp_path / "neutral", kind="student").parents
    assert parents == {"teacher": "0" * 64, "unshifted": read_manifest(static, kind="student").fingerprint}


def test_what_gives_no_vectors_or_cuts_them_is_refused(static: Path, tmp_path: Path):
    embedder = open_model(str(static))
    classifier = tiny_classifier(static, tmp_path / "classifier")
    with pytest.raises(FolderError, match="classifier is a classifier; only what gives vectors"):
        neutralise(classifier, tmp_path / "out", embedder=embedder, pairs=PAIRS, directions=1)
    plain = tiny_plain(tmp_path / "plain")
    path = plain / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncate_dim": 32}))
    with pytest.raises(FolderError, match="has a truncate_dim, which cuts vectors behind all layers; take it out"):
        neutralise(plain, tmp_path / "out", embedder=embedder, pairs=PAIRS, directions=1)
    export_bundle(static, tmp_path / "bundle", settings=ExportSettings(precision="fp32"))
    with pytest.raises(FolderError, match="bundle is a bundle, not a student; kdserve reopen makes a student of it"):
        neutralise(tmp_path / "bundle", tmp_path / "out", embedder=embedder, pairs=PAIRS, directions=1)
    assert not (tmp_path / "out").exists()


def test_too_few_pairs_and_too_many_directions_are_refused(static: Path, tmp_path: Path):
    embedder = open_model(str(static))
    with pytest.raises(DataError, match="de has 3 pairs"):
        neutralise(static, tmp_path / "out", embedder=embedder, pairs={"de": PAIRS["de"][:3]}, directions=1)
    # without prompts the shifts of questions are those of documents: three directions, not six
    with pytest.raises(DataError, match="the shifts of 3 languages have 3 directions, not 4; ask for fewer"):
        neutralise(static, tmp_path / "out", embedder=embedder, pairs=PAIRS, directions=4)
    same = {code: [(text, text) for text, _ in pairs] for code, pairs in PAIRS.items()}
    with pytest.raises(DataError, match="the shifts of 3 languages have 0 directions, not 1"):
        neutralise(static, tmp_path / "out", embedder=embedder, pairs=same, directions=1)
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
