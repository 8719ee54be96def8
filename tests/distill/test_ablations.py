"""benchmarks/ablations.py in small: rows as a table, and a stopped run that goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import ablations  # noqa: E402

VARIANTS = """
[[variant]]
name = "start"
set = ["train.steps=0"]
[[variant]]
name = "recipe"
set = []
"""


def test_variants_are_measured_once_and_a_stopped_run_goes_on(
    tmp_path: Path, tiny_recipe, teacher_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = tiny_recipe("static", steps=2)
    variants, records = tmp_path / "variants.toml", []
    variants.write_text(VARIANTS, encoding="utf-8")
    monkeypatch.setattr(ablations, "publish", lambda *told, table: records.append((*told, table.markdown())))
    path = Path(recipe.data_dir) / "static-0-2-0.0.toml"
    command = ["ablations", str(path), str(variants), "--work", str(tmp_path / "work"), "--cache", str(teacher_cache)]
    monkeypatch.setattr(sys, "argv", [*command, "--only", "start"])
    ablations.main()
    monkeypatch.setattr(sys, "argv", command)
    ablations.main()
    kept = (tmp_path / "work" / "ablations-variants.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["variant"] for line in kept] == ["start", "recipe"]
    assert [(theme, [row["variant"] for row in data["rows"]]) for theme, data, _ in records] == [
        ("ablations-tiny", ["start"]),
        ("ablations-tiny", ["start", "recipe"]),
    ]
    rows = records[1][1]["rows"]
    assert all(0 <= row["held_out"] <= 1 and row["seconds"] >= 0 for row in rows)
    assert "| start |" in records[0][2]
