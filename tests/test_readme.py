"""What README and the pages of docs/ show runs as it stands there; what needs packages of others is read at least."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from kdserve.recipe import load_recipe
from kdserve.runtime.catalogue import published_entries

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "models").glob("*/README.md"))]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def every(language: str) -> list[pytest.param]:
    return [
        pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, code in enumerate(blocks(page, language))
    ]


def command_lines() -> list[str]:
    lines = "\n".join(code for page in PAGES for code in blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return sorted(
        {line.partition(" | ")[2] or line for line in lines if re.match(r"kdserve |echo .* \| kdserve ", line)}
    )


def run(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


def test_the_example_of_readme_finds_the_translation(tmp_path: Path):
    (code,) = blocks(ROOT / "README.md", "python")
    english, german = (float(cell) for cell in re.findall(r"-?\d+\.\d+", run(code, tmp_path)))
    assert german > english + 0.05


@pytest.mark.parametrize("number", range(2))
def test_the_quickstart_runs(number: int, tmp_path: Path):
    run(blocks(ROOT / "docs" / "quickstart.md", "python")[number], tmp_path)


def test_the_commands_of_the_quickstart_run(tmp_path: Path):
    kdserve = tmp_path / "kdserve"
    kdserve.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m kdserve.cli "$@"\n', encoding="utf-8")
    kdserve.chmod(0o755)
    (tmp_path / "notes.txt").write_text("The keys are in the blue bowl.\nBrot und Milch kaufen.\n", encoding="utf-8")
    lines = blocks(ROOT / "docs" / "quickstart.md", "sh")[1].splitlines()
    assert lines.pop() == "kdserve search notes.index"  # a prompt, which needs a terminal
    code = "\n".join([f"PATH={shlex.quote(str(tmp_path))}:$PATH", *lines])
    done = subprocess.run(
        ["sh", "-ec", code], capture_output=True, text=True, check=True, cwd=tmp_path, encoding="utf-8"
    )
    assert "The keys are in the blue bowl." in done.stdout.splitlines()[0]


@pytest.mark.parametrize("code", every("python"))
def test_every_python_block_is_python(code: str):
    ast.parse(code)


def test_the_recipe_of_readme_loads(tmp_path: Path):
    (text,) = blocks(ROOT / "README.md", "toml")
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert recipe.student.layers == (0, 3, 5)


@pytest.mark.parametrize("text", every("toml"))
def test_every_toml_block_is_toml(text: str):
    tomllib.loads(text)


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_has_its_options(line: str):
    from typer.main import get_command

    from kdserve.cli import app

    command: click.Command = get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while isinstance(subcommands := getattr(command, "commands", None), dict) and words:
        if not words[0].startswith("-"):
            command = subcommands[words[0]]
        words = words[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)} <= options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for target in re.findall(rf"\]\({REPOSITORY}/blob/main/([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_the_tables_of_students_say_what_bundles_and_records_say():
    def rows(page: str) -> list[list[str]]:
        lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]

    of_readme = {name[1 : name.index("]")]: figures for name, *figures in rows("README.md") if name.startswith("[kds")}
    (_, *names), *lines = rows("docs/models.md")
    of_models = {name: {line[0]: line[1 + place] for line in lines} for place, name in enumerate(names)}
    for entry in published_entries():
        if entry.kind == "bundle":
            size, languages = f"{entry.size_bytes / 1e6:.1f}", str(len(entry.languages) + len(entry.weak_languages))
            own, across = str(entry.quality["search"]), str(entry.quality["across"])
            assert of_readme[entry.name][:4] == [size, languages, own, across]
            shown = of_models[entry.name]
            assert (shown["size, MB"], shown["languages"].partition(",")[0]) == (size, languages)
            assert shown["reads at most, tokens"] == str(entry.max_tokens)
            assert shown["question to paragraph, own language / across"] == f"{own} / {across}"
            assert shown["texts a CPU second"] == of_readme[entry.name][-1]
            assert shown["Tatoeba, mean of 23 languages"] == of_readme[entry.name][-2]


def test_readme_links_are_absolute_so_that_they_work_on_a_package_page():
    assert re.findall(r"\]\((?!https://|#)", (ROOT / "README.md").read_text(encoding="utf-8")) == []
