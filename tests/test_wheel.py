"""What `pip install '.[cpu,search,cli]'` and the data packages give, outside the checkout: make wheel.

KDSERVE_WHEEL_PYTHON names the Python of an environment that holds these and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from kdserve.runtime.published import PACKAGES

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def python() -> str:
    found = os.environ.get("KDSERVE_WHEEL_PYTHON")
    if not found:
        pytest.skip(
            "needs KDSERVE_WHEEL_PYTHON, an environment with kdserve[cpu,search,cli] and its data packages: make wheel"
        )
    return found


def run(python: str, *arguments: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_published_models_are_inside(python: str, tmp_path: Path) -> None:
    lines = run(python, "-m", "kdserve.cli", "models", "--json", folder=tmp_path).splitlines()
    found = {entry["name"]: Path(entry["folder"]) for entry in map(json.loads, lines)}
    assert {"kdserve-static", "kdserve-mini", "kdserve-langid", *PACKAGES} == set(found)
    homes = {name: folder.parent.name for name, folder in found.items()}
    assert {name for name, home in homes.items() if home == "kdserve_bundles"} == set(PACKAGES)
    assert all("site-packages" in folder.parts for folder in found.values())


def test_the_python_example_of_readme_runs_without_torch(python: str, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    print_torch = "import importlib.util; print(importlib.util.find_spec('torch'))"
    output = run(python, "-c", f"{code}\n{print_torch}", folder=tmp_path)
    assert output.splitlines()[-1] == "None"
    assert re.search(r"\d\.\d", output)


def test_an_index_is_built_and_asked(python: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Die Schlüssel liegen im Auto.\nThe bread is still warm.\n", encoding="utf-8")
    run(python, "-m", "kdserve.cli", "index", "build", "notes.txt", "--out", "notes.index", folder=tmp_path)
    asked = ("search", "notes.index", "¿dónde dejé las llaves?", "--json")
    answer = json.loads(run(python, "-m", "kdserve.cli", *asked, folder=tmp_path))
    assert answer["hits"][0]["text"] == "Die Schlüssel liegen im Auto."
