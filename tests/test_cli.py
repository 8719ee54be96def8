"""What the command line has beside the commands of the rooms."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kdserve
from kdserve.cli import app
from kdserve.cli.console import print_row

BUNDLES = Path(__file__).parent / "runtime" / "bundles"


def test_it_says_its_version():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"kdserve {kdserve.__version__}\n")


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "kdserve", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"kdserve {kdserve.__version__}\n"


@pytest.mark.parametrize(
    "command",
    ["index sync INDEX EMPTY", "index build EMPTY --out x", "embed EMPTY", "embed x.txt --out=", "models EMPTY"],
)
def test_an_empty_path_does_not_stand_for_the_working_folder(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.txt").write_text("a text\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["" if word == "EMPTY" else word for word in command.split()])
    assert done.exit_code == 2
    assert "an empty path names nothing" in " ".join(done.output.split())


def test_the_working_folder_is_named_by_a_point_beside_empty_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"text": "a", "year": 1}\n', encoding="utf-8")
    bundle = str(BUNDLES / "static")
    done = CliRunner().invoke(app, ["index", "build", ".", "--fields", "", "--bundle", bundle, "--out", "made"])
    assert (done.exit_code, (tmp_path / "made" / "kdserve.json").exists()) == (0, True)


def test_a_shell_completes_a_command():
    asked = os.environ | {"_KDSERVE_COMPLETE": "complete_bash", "COMP_WORDS": "kdserve sea", "COMP_CWORD": "1"}
    code = "import sys; sys.argv[0] = 'kdserve'; from kdserve.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["search"]


def test_models_lists_what_ships_and_what_lies_in_a_folder(tmp_path):
    shutil.copytree(BUNDLES / "static", tmp_path / "mine")
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "kdserve.json").write_text('{"kind": "student"}', encoding="utf-8")
    done = CliRunner().invoke(app, ["models", "--json", str(tmp_path), str(tmp_path)])
    assert done.exit_code == 0
    found = {entry["name"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    assert {"kdserve-static", "kdserve-mini", "kdserve-langid", "tiny-static"} <= set(found)
    assert found["tiny-static"]["folder"] == str(tmp_path / "mine")
    assert len(done.stdout.splitlines()) == len(found)


def test_models_prints_a_row_a_model():
    header, *rows = CliRunner().invoke(app, ["models", str(BUNDLES)]).stdout.splitlines()
    assert header.split() == ["name", "MB", "languages", "tokens", "for", "quality", "folder"]
    (row,) = (row for row in rows if row.startswith("tiny-transformer"))
    assert "vectors, word order too" in row
    assert row.endswith(str(BUNDLES / "transformer"))


def test_models_says_which_folder_it_leaves_out(tmp_path):
    (tmp_path / "kdserve.json").write_text("{", encoding="utf-8")
    done = CliRunner().invoke(app, ["models", str(tmp_path)])
    assert done.exit_code == 0
    assert done.stderr.startswith("left out: ")
    assert "is damaged" in done.stderr


def test_a_row_is_one_line_that_drives_no_terminal(capsys: pytest.CaptureFixture[str]):
    print_row("0.5", "a\tb\nc", "x \x1b[31mRED\x1b]0;title\x07 \u202e z", "شَمْس 👩‍👧")
    assert capsys.readouterr().out == "0.5\ta b c\tx \ufffd[31mRED\ufffd]0;title\ufffd \ufffd z\tشَمْس 👩‍👧\n"
