from __future__ import annotations

from pathlib import Path

import pytest
from tiny_writers import tiny_writer

from kdserve.export import WritingFloors, export_translator
from kdserve.export.sequence.gate import GatePairs
from kdserve.model_settings import SequenceSettings
from kdserve.samples import parallel


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 bundle of a tiny Marian that turns German into something."""
    folder = tmp_path_factory.mktemp("writer")
    plain = SequenceSettings(
        name="tiny-marian", family="sequence", max_tokens=24, languages=("de",), weak_languages=(), task="translate",
        max_output_tokens=20, targets=("en",),
    )  # fmt: skip
    pairs = GatePairs(sources={"de": parallel()["de"][:6]}, references={"de": parallel()["en"][:6]})
    student = tiny_writer(folder / "student", "marian")
    floors = WritingFloors(max_chrf_loss=100, max_spoilt=1)
    export_translator(student, folder / "bundle", precision="int8", plain=plain, pairs=pairs, floors=floors)
    return folder / "bundle"
