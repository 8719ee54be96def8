"""Make an environment for every peer and what each needs of the teacher; go on where a run was stopped.

    python benchmarks/peers/make_environments.py --work DIR [--torch "torch==2.13.0"] [NAME...]

What cannot be made is named with its reason, and the others are made all the same. --torch is what pip installs as
torch; for a build without CUDA name its index there too.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--torch", default="torch==2.13.0")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    prepare_teacher(work)
    failed = {}
    for name, environment in tomllib.loads((HERE / "environments.toml").read_text(encoding="utf-8")).items():
        if arguments.names and name not in arguments.names:
            continue
        try:
            make(work / "environments" / name, environment, torch=arguments.torch)
            for step in environment.get("prepare", []):
                prepare(work, name, step)
        except subprocess.CalledProcessError as error:
            failed[name] = (error.stderr or "").strip().splitlines()[-1:] or [str(error)]
    for name, reason in failed.items():
        print(f"{name}: not made ({reason[0]})", file=sys.stderr)
    sys.exit(1 if failed else 0)


def prepare_teacher(work: Path) -> None:
    """Lay the teacher and the calibration texts where every environment finds them."""
    from kdserve import samples
    from kdserve.distill.teachers.embedder import find_teacher

    work.mkdir(parents=True, exist_ok=True)
    if not (work / "teacher").is_dir():
        shutil.copytree(find_teacher("all-MiniLM-L6-v2"), work / "teacher")
    (work / "calibration.json").write_text(json.dumps(samples.parallel()["en"]), encoding="utf-8")


def make(folder: Path, environment: dict[str, object], *, torch: str) -> None:
    if (folder / "ready").is_file():
        return
    print(f"make {folder.name}", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    if environment.get("torch"):
        install(folder, shlex.split(torch))
    install(folder, environment["requirements"])  # type: ignore[arg-type]
    for requirement in environment.get("optional", []):  # type: ignore[attr-defined]
        try:
            install(folder, [requirement])
        except subprocess.CalledProcessError as error:
            print(f"{folder.name}: without {requirement} ({error.stderr.strip().splitlines()[-1]})", file=sys.stderr)
    (folder / "ready").touch()


def install(folder: Path, requirements: list[str]) -> None:
    command = [str(folder / "bin" / "pip"), "install", "--quiet", *requirements]
    subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)


def prepare(work: Path, name: str, step: str) -> None:
    if (work / f"{step}.prepared").is_file():
        return
    print(f"prepare {step}", file=sys.stderr)
    command = [
        str(work / "environments" / name / "bin" / "python"),
        str(HERE / "worker.py"),
        "prepare",
        step,
        str(work),
    ]
    subprocess.run(command, check=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    (work / f"{step}.prepared").touch()


if __name__ == "__main__":
    main()
