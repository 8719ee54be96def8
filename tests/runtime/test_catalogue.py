from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdserve.errors import FolderError
from kdserve.runtime import Classifier, Encoder
from kdserve.runtime.catalogue import describe_bundle, manifests_in, published_entries

BUNDLES = Path(__file__).parent / "bundles"


def test_what_ships_is_described_as_it_opens():
    entries = {entry.name: entry for entry in published_entries()}
    mini, langid = entries["kdserve-mini"], entries["kdserve-langid"]
    encoder = Encoder.load("kdserve-mini")
    assert (mini.kind, mini.dim, mini.max_tokens) == ("bundle", encoder.dim, encoder.max_tokens)
    assert mini.languages == encoder.settings.languages
    assert mini.labels == ()
    assert (langid.kind, langid.dim, langid.labels) == ("classifier", None, Classifier.load("kdserve-langid").labels)


def test_quality_is_the_mean_of_what_the_export_recorded(tmp_path):
    shutil.copytree(BUNDLES / "static", tmp_path / "bundle")
    path = tmp_path / "bundle" / "kdserve.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["settings"]["fidelity"] = {
        "languages": [{"accuracy_bundle": None}, {"accuracy_bundle": 80.0}, {"accuracy_bundle": 90.0}],
        "evaluated": [{"retrieval_bundle": None, "spearman_bundle": 71.0}],
    }
    path.write_text(json.dumps(manifest), encoding="utf-8")
    quality = describe_bundle(tmp_path / "bundle", kind="bundle").quality
    assert quality == {"sample translations": 85.0, "similarity": 71.0}


@pytest.mark.parametrize("evaluated", [1, [1], [{"spearman_bundle": "high"}], [{"spearman_bundle": float("nan")}]])
def test_a_record_of_the_gate_that_is_none_is_told(evaluated, tmp_path):
    shutil.copytree(BUNDLES / "static", tmp_path / "bundle")
    path = tmp_path / "bundle" / "kdserve.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["settings"]["fidelity"] = {"evaluated": evaluated}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(FolderError, match="has no record of a gate"):
        describe_bundle(tmp_path / "bundle", kind="bundle")


def test_published_students_say_how_well_they_search():
    found = {entry.name: entry.quality for entry in published_entries() if entry.kind == "bundle"}
    assert all(100 >= quality["search"] > quality["across"] > 0 for quality in found.values())
    assert "sample translations" in found["kdserve-mini"]


def test_manifests_are_found_down_to_two_levels(tmp_path):
    for name in ("a", "b/bundle", "c/too/deep"):
        shutil.copytree(BUNDLES / "static", tmp_path / name)
    assert manifests_in(tmp_path) == [tmp_path / "a", tmp_path / "b" / "bundle"]
    assert manifests_in(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(FolderError, match="there is no folder"):
        manifests_in(tmp_path / "none")


def test_a_size_is_the_size_of_the_files():
    entry = describe_bundle(BUNDLES / "static", kind="bundle")
    files = [path for path in (BUNDLES / "static").rglob("*") if path.is_file() and path.name != "kdserve.json"]
    assert entry.size_bytes == sum(path.stat().st_size for path in files)
