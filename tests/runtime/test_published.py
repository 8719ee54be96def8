from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

import kdserve
from kdserve.errors import FolderError
from kdserve.runtime import Encoder, published_names
from kdserve.runtime.published import PACKAGES, find_bundle

CHECKOUT = Path(__file__).parents[2]
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


def test_a_published_name_opens_from_a_data_package_behind_those_that_come_with_kdserve(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("one", "two"):
        shutil.copytree(BUNDLE, package / place / "kdserve_bundles" / f"kdserve-{place}")
        monkeypatch.syspath_prepend(package / place)
    assert published_names() == ["kdserve-one", "kdserve-two"]
    assert find_bundle("kdserve-two") == package / "two" / "kdserve_bundles" / "kdserve-two"
    assert Encoder.load("kdserve-one").fingerprint == Encoder.load(BUNDLE).fingerprint
    own = package / "kdserve" / "bundles" / "kdserve-two"
    shutil.copytree(BUNDLE, own)
    assert find_bundle("kdserve-two") == own


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", PACKAGES)
def test_a_bundle_that_is_a_package_of_its_own_says_how_it_is_installed(name: str) -> None:
    with pytest.raises(FolderError, match=f"{name} is not installed; .* pip install ./models/{name}"):
        find_bundle(name)
    data = tomllib.loads((CHECKOUT / "models" / name / "pyproject.toml").read_text(encoding="utf-8"))
    assert data["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"bundle": f"kdserve_bundles/{name}"}
    assert data["project"]["version"] == kdserve.__version__


def test_every_published_bundle_is_in_the_wheel_or_a_package_of_its_own() -> None:
    build = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"][
        "targets"
    ]
    inside = [Path(folder).parent.name for folder in build["wheel"]["force-include"]]
    published = [path.parent.parent.name for path in CHECKOUT.glob("models/*/bundle/kdserve.json")]
    assert sorted([*inside, *PACKAGES]) == sorted(published)
    assert {f"/models/{name}/bundle" for name in PACKAGES} <= set(build["sdist"]["exclude"])


def test_an_unknown_name_lists_the_published_ones(package: Path) -> None:
    shutil.copytree(BUNDLE, package / "models" / "kdserve-tiny" / "bundle")
    with pytest.raises(FolderError, match=r"nor a published student of that name \(kdserve-tiny\)"):
        Encoder.load("kdserve-other")
