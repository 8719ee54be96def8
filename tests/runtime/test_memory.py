"""A process that serves for long keeps its size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Batches of every shape that canonical lengths and the token budget allow, in a new order each time.
PROGRAM = """
import os, random, sys
import numpy as np
from pathlib import Path
from kdserve.datatypes import TokenBatch
from kdserve.runtime.session import Session

session, rng = Session(Path(sys.argv[1]) / "model.onnx"), random.Random(7)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def serve(batches):
    for _ in range(batches):
        tokens = rng.choice([4, 8, 12, 16, 24, 32, 48, 64])
        shape = (rng.randint(1, 512 // tokens) if rng.random() < 0.01 else rng.randint(1, 2), tokens)
        session.run(TokenBatch(ids=np.full(shape, 5), mask=np.ones(shape, dtype=np.int64)))

serve(1000)
session.run(TokenBatch(ids=np.full((512, 64), 5), mask=np.ones((512, 64), dtype=np.int64)))
before = resident()
serve(10_000)
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs /proc to see resident memory")
def test_memory_does_not_grow_over_ten_thousand_mixed_batches(bundle: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(bundle)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 2_000_000
