"""The files of examples/serve and the settings of docs/serving.md are ones that work."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="needs the extra serve")

from kdserve.serve import ServerSettings, load_settings

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "serve"


def test_the_settings_of_the_examples_load():
    settings = load_settings(EXAMPLES / "serve.toml")
    assert settings.aliases == {"text-embedding-3-small": "kdserve-mini"}


def test_the_page_shows_every_setting_and_its_default(tmp_path: Path):
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```toml\n(bundles.*?)```", page, re.DOTALL)
    (tmp_path / "serve.toml").write_text(shown, encoding="utf-8")
    settings = load_settings(tmp_path / "serve.toml")
    named = {"bundles", "classifiers", "translators", "indexes", "keys", "aliases"}
    for entry in dataclasses.fields(ServerSettings):
        assert re.search(rf"^\[?{entry.name}\b", shown, re.MULTILINE)
        if entry.name not in named:
            assert getattr(settings, entry.name) == getattr(ServerSettings(bundles=("a",)), entry.name)


@pytest.mark.parametrize(
    "command",
    [["nginx", "-t", "-c", str(EXAMPLES / "nginx.conf")], ["haproxy", "-c", "-f", str(EXAMPLES / "haproxy.cfg")]],
    ids=["nginx", "haproxy"],
)
def test_proxies_take_their_files(command: list[str]):
    if not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
