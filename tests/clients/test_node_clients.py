"""OpenAI's client for Node, and the page in a real browser.

KDSERVE_CLIENTS_NODE names a node_modules folder with openai and playwright-core.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def run_node(tmp_path: Path):
    """Run a script of this folder with the packages."""
    modules = os.environ.get("KDSERVE_CLIENTS_NODE")
    if not modules or not shutil.which("node"):
        pytest.skip("needs node, and KDSERVE_CLIENTS_NODE: openai and playwright-core; see make clients")

    def run(script: str, *arguments: str, given: Any = None) -> Any:
        shutil.copy(HERE / script, tmp_path)
        (tmp_path / "node_modules").symlink_to(Path(modules).resolve())
        command = ["node", script, *arguments]
        done = subprocess.run(
            command, input=json.dumps(given), capture_output=True, text=True, cwd=tmp_path, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_openai_for_node(url: str, texts: list[str], vectors: np.ndarray, run_node):
    for given in run_node("openai.mjs", url, given=texts):
        assert np.array_equal(np.array(given, np.float32), vectors)


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_the_page_in_a_browser(url: str, tmp_path: Path, run_node):
    seen = run_node("page.mjs", url, CHROMIUM, str(tmp_path / "profile"))
    assert (seen["errors"], seen["outside"]) == ([], [])
    assert seen["first"] == "doc-001"
    assert {"poach", "egg"} <= set(seen["marks"])
    assert seen["status"].startswith("10 hits in ")
    assert "generation 1" in seen["status"]
    assert seen["filtered"] == ["es"]
    assert seen["direction"] == "rtl"
    assert seen["tab"] == "tab-compare"
    assert 0.4 < seen["similarity"] < 1
    assert seen["last"] == ["tab-embed", True]
    assert [language.split()[0] for language in seen["languages"]] == ["English", "German"]
    assert seen["embedded"] == [384, 384, 384]
    assert all(wide <= int(name.split()[0]) for name, (wide, _) in seen["wide"].items())
    assert seen["wide"]["320 light"][1] != seen["wide"]["320 dark"][1]
    assert "/v1/embeddings" in seen["documented"]
