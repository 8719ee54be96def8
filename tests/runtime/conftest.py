from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdserve.runtime import Encoder

BUNDLES = Path(__file__).parent / "bundles"


@pytest.fixture(params=["static", "transformer"])
def bundle(request: pytest.FixtureRequest) -> Path:
    return BUNDLES / str(request.param)


@pytest.fixture
def copied_bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / "transformer", tmp_path / "bundle"))


@pytest.fixture
def encoder(bundle: Path) -> Encoder:
    return Encoder.load(bundle, num_threads=1)


@pytest.fixture(scope="session")
def canonical() -> dict[str, dict[str, list[list[float]]] | list[str]]:
    return json.loads((BUNDLES / "canonical.json").read_text(encoding="utf-8"))
