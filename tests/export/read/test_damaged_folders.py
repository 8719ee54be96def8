"""Folders that are damaged or odd: one line that names the file or the library, never a raw exception."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_students import tiny_plain, tiny_static

from kdserve.errors import FolderError
from kdserve.export import ExportSettings, GateTexts, export_bundle, trim_vocabulary

TEXTS = GateTexts(by_language={"en": ["The train is late.", "Bread is warm."]}, parallel=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    whole = {"static": tiny_static(folder / "static")}
    (folder / "static" / "kdserve.json").unlink()
    return whole | {"transformer": tiny_plain(folder / "transformer", vocabulary="WordPiece", dense=True)}


@pytest.fixture(params=["transformer", "static"])
def source(request: pytest.FixtureRequest, whole: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole[request.param], tmp_path / request.param))


def refused(source: Path) -> set[str]:
    """Return what export and trim say; each must refuse in one line that names the folder."""
    said = set()
    with pytest.raises(FolderError) as error:
        export_bundle(source, source.with_name("bundle"), settings=ExportSettings(precision="fp32"), texts=TEXTS)
    said.add(str(error.value))
    try:
        trim_vocabulary(source, source.with_name("small"), texts=TEXTS)
    except FolderError as found:
        said.add(str(found))
    assert all(str(source) in message and "\n" not in message for message in said)
    return said


DAMAGES = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "half a character": b'{"prompts": {"query": "\\ud800"}}',
    "no object": b"[1, 2]",
    "a header beyond the file": (1 << 62).to_bytes(8, "little") + b"{}",
}
FILES = ["modules.json", "config_sentence_transformers.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_one_line(name: str, damage: bytes, source: Path) -> None:
    (source / name).write_bytes(damage)
    refused(source)


@pytest.mark.parametrize("name", ["modules.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_is_cut_missing_or_a_folder_is_one_line(name: str, source: Path) -> None:
    whole = (source / name).read_bytes()
    (source / name).write_bytes(whole[: len(whole) // 2])
    refused(source)
    (source / name).unlink()
    if (name, source.name) != ("tokenizer.json", "transformer"):
        refused(source)
    (source / name).mkdir()
    refused(source)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"num_hidden_layers": "two"}),
        ("config.json", {"num_hidden_layers": 7}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"hidden_size": -1}),
        ("config.json", {"model_type": None}),
        ("config.json", {"model_type": "nonesuch"}),
        ("config.json", {"auto_map": {"AutoModel": "code.Model"}, "model_type": "own"}),
        ("tokenizer_config.json", {"model_max_length": "many"}),
        ("sentence_bert_config.json", {"max_seq_length": [128]}),
        ("sentence_bert_config.json", {"max_seq_length": -1}),
        ("1_Pooling/config.json", {"pooling_mode": 3}),
        ("2_Dense/config.json", {"activation_function": 3}),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}),
    ],
)
@pytest.mark.parametrize("source", ["transformer"], indirect=True)
def test_settings_of_other_types_are_one_line(name: str, changes: dict[str, Any], source: Path) -> None:
    path = source / name
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(record | changes), encoding="utf-8")
    refused(source)


@pytest.mark.parametrize("truncate_dim", ["half", -3, 2.5, True])
def test_a_truncation_that_is_no_count_is_one_line(truncate_dim: Any, source: Path) -> None:
    record = json.dumps({"truncate_dim": truncate_dim})
    (source / "config_sentence_transformers.json").write_text(record, encoding="utf-8")
    assert any("truncate_dim" in message for message in refused(source))


@pytest.mark.parametrize("source", ["static"], indirect=True)
def test_a_tokenizer_that_makes_its_library_panic_is_one_line(source: Path) -> None:
    path = source / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    spec["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    path.write_text(json.dumps(spec), encoding="utf-8")
    refused(source)


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "student.zip").write_bytes(b"PK")
    with pytest.raises(FolderError, match=r"student\.zip is a file; name a student folder"):
        export_bundle(tmp_path / "student.zip", tmp_path / "bundle", settings=ExportSettings(), texts=TEXTS)
