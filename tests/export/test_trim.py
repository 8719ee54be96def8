from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny_students import LANGUAGES, tiny_plain, tiny_static
from tokenizers import Tokenizer

from kdserve.errors import DataError, FolderError
from kdserve.export import ExportSettings, GateTexts, export_bundle, trim_vocabulary
from kdserve.model_settings import read_student_settings
from kdserve.runtime import Encoder
from kdserve.samples import parallel

ALL = GateTexts(by_language=parallel(), parallel=True)
TEXTS = GateTexts(by_language={code: parallel()[code] for code in LANGUAGES}, parallel=True)


def make(kind: str, folder: Path) -> Path:
    if kind == "static":
        return tiny_static(folder)
    family = {"Unigram": "xlm-roberta", "WordPiece": "bert", "BPE": "roberta"}[kind]
    return tiny_plain(folder, family=family, vocabulary=kind)


@pytest.mark.parametrize("kind", ["static", "Unigram", "WordPiece", "BPE"])
def test_text_whose_tokens_survive_keeps_its_vector_bit_for_bit(kind: str, tmp_path: Path) -> None:
    model = make(kind, tmp_path / "model")
    report = trim_vocabulary(model, tmp_path / "small", texts=TEXTS, languages=["de"])
    before, after = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (model, tmp_path / "small"))
    sentences = [text for code in ("de", "en") for text in parallel()[code]]
    pairs = zip(before.encode_batch(sentences), after.encode_batch(sentences), strict=True)
    survivors = [text for text, (a, b) in zip(sentences, pairs, strict=True) if set(a.tokens) <= set(after.get_vocab())]
    assert report.tokens_after < 0.85 * report.tokens_before
    assert len(survivors) > 288
    for text in survivors:
        assert before.encode(text).tokens == after.encode(text).tokens
    vectors = [
        SentenceTransformer(str(path), device="cpu").encode(survivors, show_progress_bar=False)
        for path in (model, tmp_path / "small")
    ]
    assert np.array_equal(vectors[0], vectors[1])


@pytest.mark.parametrize("kind", ["Unigram", "WordPiece", "BPE"])
def test_a_trimmed_folder_exports_to_the_same_vectors(kind: str, tmp_path: Path) -> None:
    model = make(kind, tmp_path / "model")
    trim_vocabulary(model, tmp_path / "small", texts=TEXTS, languages=["de"])
    gate = GateTexts(by_language={"de": parallel()["de"][:10]}, parallel=False)
    vectors = []
    for source in (model, tmp_path / "small"):
        out = tmp_path / f"{source.name}-bundle"
        export_bundle(source, out, settings=ExportSettings(precision="fp32"), texts=gate)
        vectors.append(Encoder.load(out, num_threads=1).encode_document(parallel()["de"][1:10]))
    assert np.array_equal(vectors[0], vectors[1])


def test_a_trimmed_student_says_what_it_said_of_the_languages_that_stay(tmp_path: Path) -> None:
    trim_vocabulary(tiny_static(tmp_path / "student"), tmp_path / "small", texts=ALL, languages=["de", "ja", "fr"])
    settings = read_student_settings(tmp_path / "small")
    assert (settings.languages, settings.weak_languages) == (("de", "ja"), ("ja",))  # it never learnt fr
    assert (settings.name, settings.dim, settings.widths, settings.table_bits) == ("small", 64, (32,), 8)


def test_a_trimmed_folder_of_others_has_the_width_of_its_vectors(tmp_path: Path) -> None:
    trim_vocabulary(tiny_plain(tmp_path / "model", dense=True), tmp_path / "small", texts=TEXTS, languages=["de"])
    settings = read_student_settings(tmp_path / "small")
    assert (settings.languages, settings.dim, settings.family) == (("de",), 32, "transformer")


def test_coverage_is_of_texts_that_were_held_out(tmp_path: Path) -> None:
    model = make("Unigram", tmp_path / "model")
    report = trim_vocabulary(model, tmp_path / "small", texts=TEXTS, languages=["de", "ru"], min_count=5)
    assert [(row.language, row.num_texts) for row in report.coverage] == [("de", 32), ("ru", 32)]
    assert all(0.3 < row.share_unchanged < 1 for row in report.coverage)
    assert all(row.tokens_per_word_after > row.tokens_per_word_before for row in report.coverage)
    assert report.bytes_after < report.bytes_before


def test_a_language_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no text in sw"):
        trim_vocabulary(tmp_path / "model", tmp_path / "small", texts=TEXTS, languages=["sw"])


def test_what_cannot_be_written_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "small").touch()
    with pytest.raises(FolderError, match="small exists already; choose another name"):
        trim_vocabulary(tmp_path / "no model", tmp_path / "small", texts=TEXTS)
    with pytest.raises(FolderError, match=r"inside lies inside .*, which would be copied into itself"):
        trim_vocabulary(tmp_path, tmp_path / "inside", texts=TEXTS)


def test_a_file_that_cannot_be_copied_is_named_and_a_full_disk_is_told(tmp_path: Path, file_size_limit) -> None:
    model = tiny_plain(tmp_path / "model")
    with file_size_limit(20_000), pytest.raises(FolderError, match=r"small cannot be written \(File too large\)"):
        trim_vocabulary(model, tmp_path / "small", texts=TEXTS)
    (model / "link.txt").symlink_to("nowhere")
    with pytest.raises(FolderError, match=r"model/link.txt is missing; copy the folder again"):
        trim_vocabulary(model, tmp_path / "small", texts=TEXTS)
    assert not list(tmp_path.glob("*small*"))
