"""Schemathesis asks all that the OpenAPI document allows, and much that it does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serverprocess import served

KEY = "writer-0123456789abcdef"


def test_replies_are_as_the_document_says(index: Path, tmp_path: Path):
    pytest.importorskip("schemathesis", reason="needs schemathesis; make clients has it")
    own = shutil.copytree(index, tmp_path / "own.index")
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nname = "all"\nkey = "{KEY}"\nrole = "write"\n')
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", "--no-color", "--seed", "1"]
    command += ["--max-examples", "20", "--header", f"Authorization: Bearer {KEY}", "--checks", "all"]
    command += ["--request-timeout", "120"]
    # a filter, a name or a pair of texts may fit the schema and still be refused
    command += ["--exclude-checks", "positive_data_acceptance"]
    with served("kdserve-static", "--index", own, "--classifier", "kdserve-langid", "--keys", keys) as server:
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        done = subprocess.run([*command, url], capture_output=True, text=True, timeout=900, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stdout[-5000:]
        assert [line for line in server.log if line["level"] == "error"] == []
