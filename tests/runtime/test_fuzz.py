from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_bundle.py"


def test_no_spoilt_bundle_answers_from_unverified_bytes_or_falls_over() -> None:
    command = [sys.executable, str(SCRIPT), "--trials", "150", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)["outcomes"]
    assert set(outcomes) == {"refused", "answered"}
    assert sum(outcomes.values()) == 150
    assert outcomes["answered"] > 10
