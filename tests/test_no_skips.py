from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SKIPPED = "import pytest\n@pytest.mark.skip(reason='there is no Node')\ndef test_nothing(): pass\n"
SKIPPED_WHOLE = "import pytest\npytest.importorskip('no_such_package', reason='there is no Milvus')\n"


def run(text: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    test = folder / "test_it.py"
    test.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", *options, str(test)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(("text", "reason"), [(SKIPPED, "there is no Node"), (SKIPPED_WHOLE, "there is no Milvus")])
def test_what_cannot_run_fails_where_nothing_may_be_skipped(text: str, reason: str, tmp_path: Path) -> None:
    done = run(text, tmp_path, "--no-skips")
    assert done.returncode in (1, 2)
    assert f"{reason} (and nothing may be skipped here)" in done.stdout
    assert "1 skipped" in run(text, tmp_path).stdout


def test_what_runs_passes_there(tmp_path: Path) -> None:
    assert run("def test_one(): pass\n", tmp_path, "--no-skips").returncode == 0
