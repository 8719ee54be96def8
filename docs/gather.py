"""Gather the pages of the site under out/docs, with what is drawn from the code; `make docs` then builds them.

Pages keep their paths, so that their links hold in the repository and on the site. Links to files that are no pages
lead to the repository; links of README to the repository lead to the pages. Drawn from the code are the command line
(docs/cli.md), the Python API (docs/api.md) and the keys of recipes (docs/recipe-keys.md).
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import kdserve
import kdserve.recipe
import kdserve.search

ROOT = Path(__file__).parents[1]
OUT = ROOT / "out" / "docs"
URL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
BLOB = f"{URL}/blob/main/"
RAW = f"{URL.replace('github.com', 'raw.githubusercontent.com')}/main/"
PICTURES = {".png", ".svg"}
_LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")


def main() -> None:
    """Write every page, its links turned, and the pictures beside them."""
    shutil.rmtree(OUT, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    tracked = [Path(name) for name in listed.stdout.decode().splitlines() if (ROOT / name).is_file()]
    pages = {path for path in tracked if path.suffix == ".md" and not {"bundle", "bundles"} & set(path.parts)}
    drawn = {"docs/cli.md": draw_commands(), "docs/api.md": draw_api(), "docs/recipe-keys.md": draw_keys()}
    known = pages | {Path(name) for name in drawn}
    for path in sorted(pages):
        write(path, turn_links((ROOT / path).read_text(encoding="utf-8"), path, pages=known))
    for name, text in drawn.items():
        write(Path(name), text)
    for path in tracked:
        if path.suffix in PICTURES and path.parts[0] in ("docs", "models"):
            (OUT / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, OUT / path)


def write(path: Path, text: str) -> None:
    """Write one page of the site."""
    (OUT / path).parent.mkdir(parents=True, exist_ok=True)
    (OUT / path).write_text(text, encoding="utf-8")


def turn_links(text: str, page: Path, *, pages: set[Path]) -> str:
    """Point links at the page where there is one, at the repository else."""

    def turned(link: re.Match[str]) -> str:
        target, anchor = link[1], link[2] or ""
        if target.startswith((BLOB, RAW)):
            found = Path(target.removeprefix(BLOB).removeprefix(RAW))
        elif not target or ":" in target:
            return link[0]
        else:
            found = (ROOT / page.parent / target).resolve().relative_to(ROOT)
        if found in pages or found.suffix in PICTURES:
            up = "../" * len(page.parent.parts)
            return f"{up}{found.as_posix()}{anchor}"
        if not (ROOT / found).exists():
            sys.exit(f"{page} links to {target}, which is not there")
        return f"{BLOB}{found.as_posix()}{anchor}"

    return _LINK.sub(turned, text)


def draw_commands() -> str:
    """Draw the command line with typer's own generator."""
    command = [sys.executable, "-m", "typer", "kdserve.cli.commands", "utils", "docs", "--name", "kdserve"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    text = re.sub(r"(?m)^\* `--(install|show)-completion`.*\n", "", done.stdout)
    return text.replace("# `kdserve`", "# Command line", 1)


def draw_api() -> str:
    """List the public names for mkdocstrings."""
    lines = ["# Python", "", "Names that `kdserve` and `kdserve.search` export; all else may change."]
    for package in (kdserve, kdserve.search):
        lines += ["", f"## {package.__name__}"]
        for name in sorted(package.__all__):
            value = getattr(package, name)
            seen = package is kdserve.search and name in kdserve.__all__
            if not seen and (inspect.isclass(value) or inspect.isfunction(value)):
                lines += ["", f"::: {package.__name__}.{name}", "    options:", "      heading_level: 3"]
    return "\n".join(lines) + "\n"


def draw_keys() -> str:
    """Draw the keys of recipes from their dataclasses: type, default, and what the section says of them."""
    lines = [
        "# Recipe keys",
        "",
        "Drawn from `kdserve/recipe/`; [what a recipe decides](recipes.md) says what is known.",
    ]
    for title, recipe in (
        ("Embedders and classifiers", kdserve.recipe.Recipe),
        ("Students that write", kdserve.recipe.SequenceRecipe),
    ):
        lines += ["", f"## {title}", *_section("", recipe)]
    return "\n".join(lines) + "\n"


def _section(prefix: str, section: type, *, many: bool = False) -> list[str]:
    lines = ["", f"### `{'[' * (1 + many)}{prefix}{']' * (1 + many)}`"] if prefix else []
    lines += ["", inspect.cleandoc(section.__doc__ or ""), "", "| key | type | default |", "| --- | --- | --- |"]
    hints, inner = typing.get_type_hints(section), []
    for field in dataclasses.fields(section):
        kinds = [kind for kind in _parts(hints[field.name]) if dataclasses.is_dataclass(kind)]
        if kinds:
            many = typing.get_origin(hints[field.name]) is tuple
            inner += [(f"{prefix}.{field.name}" if prefix else field.name, kind, many) for kind in kinds]
        else:
            lines.append(f"| `{field.name}` | {_type(hints[field.name])} | {_default(field)} |")
    return lines + [line for name, kind, many in inner for line in _section(name, kind, many=many)]


def _parts(hint: object) -> list[type]:
    return [hint] if isinstance(hint, type) else [kind for part in typing.get_args(hint) for kind in _parts(part)]


def _type(hint: object) -> str:
    text = hint.__name__ if type(hint) is type else str(hint)
    return "`" + text.replace("typing.", "").replace("|", "or") + "`"


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{json.dumps(field.default)}`"
    return "empty" if field.default_factory is not dataclasses.MISSING else "must be given"


if __name__ == "__main__":
    main()
