"""What the runtime pulls in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from kdserve.runtime import Encoder
vector = Encoder.load(sys.argv[1]).encode_query(["a house"])
heavy = {"torch", "transformers", "onnx", "typer", "huggingface_hub", "sentence_transformers", "datasets", "scipy"}
print(vector.shape, sorted(heavy & set(sys.modules)))
"""


def test_a_first_vector_needs_none_of_the_training_stack(bundle: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(bundle)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "(1, 64) []\n"
    assert run.stderr == ""
