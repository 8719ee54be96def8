"""The second exporter agrees with the first. KDSERVE_OPTIMUM_PYTHON names the Python that has optimum-onnx."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny_students import LANGUAGES, tiny_plain

from kdserve.errors import FolderError, RecipeError
from kdserve.export import ExportSettings, GateTexts, export_bundle
from kdserve.runtime import Encoder
from kdserve.samples import parallel

TEXTS = [text for code in LANGUAGES for text in parallel()[code][:20] if len(text) < 40]
GATE = GateTexts(by_language={"en": TEXTS[:10]}, parallel=False)


@pytest.fixture
def optimum_python() -> Path:
    python = os.environ.get("KDSERVE_OPTIMUM_PYTHON")
    if not python:
        pytest.skip("needs KDSERVE_OPTIMUM_PYTHON, the Python of an environment with optimum-onnx: make optimum")
    return Path(python)


def export(source: Path, out: Path, python: Path | None) -> Encoder:
    settings = ExportSettings(precision="fp32", optimum_python=python)
    export_bundle(source, out, settings=settings, texts=GATE)
    return Encoder.load(out, num_threads=1)


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_both_exporters_give_equal_vectors(family: str, optimum_python: Path, tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source", family=family, dense=family == "mpnet")
    vectors = [
        export(source, tmp_path / f"{python is None}", python).encode_document(TEXTS)
        for python in (None, optimum_python)
    ]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)


def test_a_family_without_a_graph_of_ours_goes_through_optimum(optimum_python: Path, tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source", family="electra")
    encoder = export(source, tmp_path / "bundle", optimum_python)
    together = encoder.encode_document(TEXTS)
    alone = np.concatenate([encoder.encode_document([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    with pytest.raises(FolderError, match="no graph here"):
        export(source, tmp_path / "ours", None)


def test_a_python_without_optimum_is_named(tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source")
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'optimum'\" >&2\nexit 1\n", encoding="utf-8"
    )
    python.chmod(0o755)
    with pytest.raises(RecipeError, match="has no optimum-onnx; make its environment"):
        export(source, tmp_path / "bundle", python)
    with pytest.raises(RecipeError, match="does not run"):
        export(source, tmp_path / "bundle", tmp_path / "nowhere")


def test_a_python_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdserve.export.graphs.optimum._TIMEOUT_S", 0.1)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    python.chmod(0o755)
    with pytest.raises(FolderError, match=r"did not export this body within 0\.1 s"):
        export(tiny_plain(tmp_path / "source"), tmp_path / "bundle", python)


def test_code_of_a_folder_s_own_is_never_run(tmp_path: Path) -> None:
    source = tiny_plain(tmp_path / "source")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}), encoding="utf-8"
    )
    with pytest.raises(FolderError, match="names code of its own"):
        export(source, tmp_path / "bundle", tmp_path / "python")


def test_optimum_exports_fp32_only(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="choose --precision fp32"):
        ExportSettings(precision="int8", optimum_python=tmp_path)
