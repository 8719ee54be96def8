from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdserve.manifest import read_manifest, write_manifest
from kdserve.runtime.normalizer import with_present_normalizer

BUNDLES = Path(__file__).parents[1] / "runtime" / "bundles"


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundles `static` and `transformer`, as an export of today writes them.

    Python reads texts by the rules of today whatever `tokenizer.json` says; other software only by what is in there.
    """
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("static", "transformer"):
        bundle = shutil.copytree(BUNDLES / name, folder / name)
        manifest, tokenizer = read_manifest(bundle, kind="bundle"), bundle / "tokenizer.json"
        present = with_present_normalizer(json.loads(tokenizer.read_text(encoding="utf-8")))
        tokenizer.write_text(json.dumps(present, ensure_ascii=False), encoding="utf-8")
        write_manifest(bundle, kind="bundle", parents=manifest.parents, settings=manifest.settings)
    return folder
