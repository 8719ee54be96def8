"""Bundles of students that write, opened again: they write what they wrote, and go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_writers import tiny_writer

from kdserve.errors import FolderError
from kdserve.export import WritingFloors, export_translator, reopen_bundle
from kdserve.export.sequence import reopen
from kdserve.export.sequence.gate import GatePairs
from kdserve.manifest import verify_folder
from kdserve.model_settings import SequenceSettings
from kdserve.runtime.sequence import Translator
from kdserve.samples import parallel

_PLAIN = SequenceSettings(
    name="tiny", family="sequence", max_tokens=60, languages=("de",), weak_languages=("fr",), task="summarise",
    max_output_tokens=40,
)  # fmt: skip
_PAIRS = GatePairs(sources={"de": parallel()["de"][:4]}, references={"de": parallel()["en"][:4]})
_ANY = WritingFloors(max_chrf_loss=100, max_spoilt=1)


def _export(student: Path, out: Path, precision: str) -> Path:
    export_translator(student, out, precision=precision, plain=_PLAIN, pairs=_PAIRS, floors=_ANY)
    return out


@pytest.mark.parametrize("family", ["bert-bert", "xlmr-xlmr"])
def test_a_bundle_in_floats_opens_again_and_writes_the_same(family: str, tmp_path: Path) -> None:
    bundle = _export(tiny_writer(tmp_path / "student", family), tmp_path / "bundle", "fp32")
    reopen_bundle(bundle, tmp_path / "again")
    again = _export(tmp_path / "again", tmp_path / "second", "fp32")
    first, second = (Translator.load(folder, num_threads=1) for folder in (bundle, again))
    texts = parallel()["de"][:24]
    for beams in (1, 3):
        assert second.translate(texts, num_beams=beams) == first.translate(texts, num_beams=beams)
    assert second.settings.generation == first.settings.generation
    manifest = verify_folder(tmp_path / "again", kind="sequence-student")
    assert (manifest.settings["task"], manifest.settings["weak_languages"]) == ("summarise", ["fr"])
    assert manifest.parents == {"bundle": first.fingerprint}


def test_rounded_weights_come_back_as_near_as_they_were_rounded(tmp_path: Path) -> None:
    student = tiny_writer(tmp_path / "student", "bert-bert")
    reopen_bundle(_export(student, tmp_path / "bundle", "fp32"), tmp_path / "exact")
    reopen_bundle(_export(student, tmp_path / "rounded", "int8"), tmp_path / "again")
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "again"))
    assert exact.keys() == rounded.keys()
    own = [name for name in exact if name.startswith("decoder.") and "crossattention.self" not in name]
    for name in own:  # the encoder's channels were put into another order
        np.testing.assert_allclose(rounded[name], exact[name], atol=0.02 * np.abs(exact[name]).max() + 1e-6)


def test_what_is_not_of_berts_kind_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="not both of BERT's kind"):
        reopen_bundle(bundle, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_activation_that_berts_side_does_not_know_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = _export(tiny_writer(tmp_path / "student", "bert-bert"), tmp_path / "bundle", "fp32")
    monkeypatch.setattr(reopen, "_ACTIVATIONS", {"Elu": "elu"})
    with pytest.raises(FolderError, match="cannot be read back: its activation is not one of elu"):
        reopen_bundle(bundle, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_decoder_with_two_activations_is_refused_as_berts_has_one(tmp_path: Path) -> None:
    student = tiny_writer(tmp_path / "student", "xlmr-xlmr")
    path = student / "config.json"
    path.write_text(path.read_text().replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    bundle = _export(student, tmp_path / "bundle", "fp32")
    with pytest.raises(FolderError, match="cannot be read back: its activation is not one of gelu"):
        reopen_bundle(bundle, tmp_path / "again")
