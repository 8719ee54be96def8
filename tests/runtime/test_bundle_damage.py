"""Damaged bundles end in one clear error, never in a vector."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from kdserve.errors import FolderError, KdserveError
from kdserve.manifest import read_manifest, write_manifest
from kdserve.runtime import Encoder
from kdserve.runtime.bundle import Bundle, open_bundle

FILES = ["model.onnx", "tokenizer.json", "README.md", "kdserve.json"]


@pytest.mark.parametrize("name", FILES[:3])
def test_one_flipped_byte_is_refused(copied_bundle: Path, name: str) -> None:
    path = copied_bundle / name
    content = bytearray(path.read_bytes())
    for position in random.Random(name).sample(range(len(content)), 25):
        content[position] ^= 1
        path.write_bytes(content)
        with pytest.raises(FolderError, match=f"{name} does not match its SHA-256"):
            Encoder.load(copied_bundle)
        content[position] ^= 1


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(copied_bundle: Path, name: str) -> None:
    path = copied_bundle / name
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:length])
        with pytest.raises(FolderError, match=name):
            Encoder.load(copied_bundle)


def test_a_flipped_byte_in_the_manifest_never_changes_a_vector(copied_bundle: Path) -> None:
    path = copied_bundle / "kdserve.json"
    content = bytearray(path.read_bytes())
    expected = Encoder.load(copied_bundle).encode_query(["a house"])
    for position in random.Random(2).sample(range(len(content)), 150):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        try:
            vectors = Encoder.load(copied_bundle).encode_query(["a house"])
        except FolderError:
            continue
        assert np.array_equal(vectors, expected)


def test_a_bundle_opens_below_a_folder_whose_name_is_no_utf_8(copied_bundle: Path) -> None:
    expected = Encoder.load(copied_bundle).encode_query(["a house"])
    odd = copied_bundle.rename(copied_bundle.with_name(os.fsdecode(b"b\xff")))
    assert np.array_equal(Encoder.load(odd).encode_query(["a house"]), expected)


@pytest.mark.parametrize("name", FILES[:2])
def test_damage_that_the_manifest_vouches_for_is_an_error_or_other_weights(copied_bundle: Path, name: str) -> None:
    """Whoever writes a bundle can write its checksums too: nothing may crash, or come out as anything but our error."""
    path = copied_bundle / name
    content, manifest = path.read_bytes(), read_manifest(copied_bundle, kind="bundle")
    rng, outcomes = random.Random(name), {"error": 0, "vector": 0}
    structure = (
        range(len(content)) if name != "model.onnx" else [*range(4000), *range(len(content) - 2000, len(content))]
    )
    for _ in range(60):
        damaged = bytearray(content)
        for position in rng.choices(structure, k=rng.choice([1, 3, 10])):
            damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged[: rng.choice([len(content), len(content), rng.randrange(len(content))])])
        write_manifest(copied_bundle, kind="bundle", parents=manifest.parents, settings=manifest.settings)
        try:
            vectors = Encoder.load(copied_bundle, num_threads=1).encode_query(["a house", "ein Haus am See"])
        except KdserveError:
            outcomes["error"] += 1
        else:
            outcomes["vector"] += 1
            assert vectors.shape == (2, 64)
    assert outcomes["error"] > 20


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(copied_bundle: Path, name: str) -> None:
    (copied_bundle / name).unlink()
    with pytest.raises(FolderError, match=name):
        Encoder.load(copied_bundle)


def test_a_linked_file_is_refused(copied_bundle: Path, tmp_path: Path) -> None:
    model = copied_bundle / "model.onnx"
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderError, match="symbolic link"):
        Encoder.load(copied_bundle)


@pytest.mark.parametrize("name", ["model.onnx_data", "weights", "1_Pooling/extra.json", ".hidden"])
def test_a_file_that_the_manifest_does_not_list_is_refused(copied_bundle: Path, name: str) -> None:
    (copied_bundle / name).write_bytes(b"\0" * 16)
    with pytest.raises(FolderError, match=f"{name} is not in the manifest"):
        Encoder.load(copied_bundle)


def test_a_dangling_link_is_refused(copied_bundle: Path) -> None:
    (copied_bundle / "later").symlink_to("nowhere")
    with pytest.raises(FolderError, match="later is not in the manifest"):
        Encoder.load(copied_bundle)


def test_a_folder_that_changes_between_its_verification_and_its_use_is_refused(
    copied_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify_then_replace(folder: Path) -> Bundle:
        bundle, model = open_bundle(folder), folder / "model.onnx"
        (folder / "aside").write_bytes(model.read_bytes())
        (folder / "aside").replace(model)
        return bundle

    monkeypatch.setattr("kdserve.runtime.encoder.open_bundle", verify_then_replace)
    with pytest.raises(FolderError, match="changed while it was opened"):
        Encoder.load(copied_bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": "64"}, "dim is '64', which is no int; export again"),
        ({"dim": 10**12}, "dim is 1000000000000; it must lie in"),
        ({"dim": True}, "dim is True, which is no int"),
        ({"max_tokens": 0}, "max_tokens is 0; it must lie in"),
        ({"widths": [0]}, "widths is 0; it must lie in"),
        ({"name": 3}, "name is 3, which is no str"),
        ({"languages": [["de"]]}, "which is no str"),
        ({"prompts": {"query": 1, "document": ""}}, "prompts.query is 1, which is no str"),
        ({"surprise": 1}, "unknown key surprise"),
        ({"max_tokens": 32}, "cuts at 64 tokens, the manifest says 32"),
        ({"prompts": {"query": "query: ", "document": ""}}, "other prompts"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(copied_bundle: Path, change: dict, message: str) -> None:
    path = copied_bundle / "kdserve.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["settings"] |= change
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(FolderError, match=message):
        Encoder.load(copied_bundle)
