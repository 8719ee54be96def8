from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdserve.errors import FolderError
from kdserve.modules import read_modules

OWN = [
    "sentence_transformers.models.Transformer",
    "sentence_transformers.models.Pooling",
    "sentence_transformers.base.modules.transformer.Transformer",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "sentence_transformers.sentence_transformer.modules.StaticEmbedding",
]
FOREIGN = [
    "trap.Trap",
    "os.system",
    "sentence_transformers.trap.Trap",
    "sentence_transformers.models.trap.Trap",
    "sentence_transformers.util.misc.import_from_string",
    "sentence_transformers.models.Transformer.load",
    "sentence_transformers.models.Transformer\n",
    "Transformer",
    "",
]
TRAP = "from pathlib import Path\nPath(__file__).with_name('sprung').touch()\nclass Trap: ...\n"


def write(folder: Path, *kinds: object) -> Path:
    folder.mkdir(exist_ok=True)
    records = [{"idx": n, "name": str(n), "path": "", "type": kind} for n, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def test_own_modules_are_read_in_order(tmp_path: Path):
    kinds = [module.kind for module in read_modules(write(tmp_path, *OWN))]
    assert kinds == ["Transformer", "Pooling", "Transformer", "Pooling", "StaticEmbedding"]


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_code_is_named_and_never_run(tmp_path: Path, kind: str):
    with pytest.raises(FolderError, match=r"modules\.json names code of its own .*, which is never run"):
        read_modules(write(tmp_path, OWN[0], kind))


@pytest.mark.parametrize("content", ["", "[", "3", "{}", "[]", "[3]", '[{"type": 3, "path": ""}]', "[" * 100_000])
def test_what_is_no_list_of_modules_is_one_line(tmp_path: Path, content: str):
    (tmp_path / "modules.json").write_text(content, encoding="utf-8")
    with pytest.raises(FolderError, match=r"modules\.json (is|names) no "):
        read_modules(tmp_path)


@pytest.mark.parametrize("path", ["..", "a/../..", "/etc"])
def test_modules_stand_inside_their_folder(tmp_path: Path, path: str):
    (tmp_path / "modules.json").write_text(json.dumps([{"type": OWN[0], "path": path}]), encoding="utf-8")
    with pytest.raises(FolderError, match="lies elsewhere"):
        read_modules(tmp_path)


def test_teacher_and_export_ask_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    teacher = pytest.importorskip("kdserve.distill.teachers.embedder", reason="needs the extra distill")
    export = pytest.importorskip("kdserve.export.read.student", reason="needs the extra export")
    folder = tmp_path / "model"
    shutil.copytree(teacher.find_teacher("all-MiniLM-L6-v2"), folder)
    (folder / "trap.py").write_text(TRAP, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))  # as where a user stands in it
    write(folder, OWN[0], "trap.Trap")
    for open_it in (lambda: teacher.load_teacher(str(folder)), lambda: export.read_student(folder)):
        with pytest.raises(FolderError, match=r"names code of its own \('trap\.Trap'\)"):
            open_it()
    assert not (folder / "sprung").exists()
