from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_python_example_ranks_documents_of_every_language_and_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    question = "Wie lagert man Brot, damit es frisch bleibt?"
    command = [sys.executable, str(ROOT / "examples" / "edge" / "python_search.py"), "kdserve-static", question]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    scores, languages, texts = zip(*(line.split("  ", 2) for line in done.stdout.splitlines()), strict=True)
    assert texts[0].startswith("Brot hält sich am längsten")
    assert list(scores) == sorted(scores, reverse=True)
    assert {"de", "en", "ru"} <= set(languages)
