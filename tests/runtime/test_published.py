from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import kdserve
from kdserve.errors import FolderError
from kdserve.runtime import Encoder, published_names

BUNDLE = Path(__file__).parent / "bundles" / "static"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kdserve, "__file__", str(tmp_path / "kdserve" / "__init__.py"))
    return tmp_path


@pytest.mark.parametrize("home", ["kdserve/bundles/kdserve-tiny", "models/kdserve-tiny/bundle"])
def test_a_published_name_opens_from_a_wheel_and_from_a_checkout(package: Path, home: str) -> None:
    shutil.copytree(BUNDLE, package / home)
    assert published_names() == ["kdserve-tiny"]
    assert Encoder.load("kdserve-tiny").fingerprint == Encoder.load(BUNDLE).fingerprint


def test_an_unknown_name_lists_the_published_ones(package: Path) -> None:
    shutil.copytree(BUNDLE, package / "models" / "kdserve-tiny" / "bundle")
    with pytest.raises(FolderError, match=r"nor a published student of that name \(kdserve-tiny\)"):
        Encoder.load("kdserve-other")
