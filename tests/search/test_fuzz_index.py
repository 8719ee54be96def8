"""The short form of benchmarks/fuzz_index.py: changed files with checksums made anew are refused or answer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("faiss")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_index.py"


@pytest.mark.skipif(sys.platform != "linux", reason="opened files are watched through Linux's inotify")
def test_no_changed_index_answers_from_unverified_bytes_or_falls_over():
    command = [sys.executable, SCRIPT, "--trials", "150", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout)["outcomes"]
    assert sum(outcomes.values()) == 150
    assert set(outcomes) <= {"refused", "answered as before", "answered otherwise"}
    assert outcomes["refused"] > 50
