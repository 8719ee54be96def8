"""What README shows runs as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kdserve.recipe import load_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_example_finds_the_translation():
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    english, german = (float(cell) for cell in re.findall(r"-?\d+\.\d+", done.stdout))
    assert german > english + 0.2


def test_the_recipe_loads(tmp_path: Path):
    (text,) = blocks("toml")
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert recipe.student.layers == (0, 3, 5)


@pytest.mark.parametrize("line", [x for block in blocks("sh") for x in block.splitlines() if x.startswith("kdserve ")])
def test_every_command_line_parses(line: str):
    words = shlex.split(line, comments=True)[1:]
    command = [word for word in words if word.isalpha()][: 2 if words[0] == "index" else 1]
    help_page = subprocess.run(
        [sys.executable, "-m", "kdserve.cli", *command, "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in (word for word in words if re.fullmatch(r"--[a-z-]+", word)):
        assert option in help_page


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
