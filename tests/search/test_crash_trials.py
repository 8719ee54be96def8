"""The short form of benchmarks/crash_trials.py: kills, full disks and flipped bytes never make an index lie."""

import json
import subprocess
import sys
from pathlib import Path

TRIALS = Path(__file__).parents[2] / "benchmarks" / "crash_trials.py"


def test_killed_starved_and_damaged_indexes_are_old_or_new_or_an_error():
    arguments = ["--kills", "20", "--terms", "12", "--full", "6", "--disk", "0", "--flips", "150"]
    done = subprocess.run([sys.executable, TRIALS, *arguments], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout)
    assert sum(outcomes["kills"].values()) == 20
    assert sum(outcomes["terms"].values()) == 12
    changes = [*outcomes["kills"], *outcomes["terms"], *outcomes["full"]]
    assert {what.split(": ")[-1] for what in changes} == {"old", "new"}
    assert set(outcomes["reads"]) == {"whole"}
    assert set(outcomes["flips"]) == {"error", "unchanged"}
