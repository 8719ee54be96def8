"""Whatever a user can cause ends in one line that says what to do, never in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from kdserve import Encoder, cli
from kdserve.errors import EncodeError

ROOT = Path(__file__).parents[1]
LONG = "x" * 300
LONE = "\udcff"
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({absent!r})); from kdserve.cli import main; main()"


def run(*arguments: object, cwd: Path, absent: tuple[str, ...] = ()) -> str:
    """Run a command as a user would, without some packages, and return its one line."""
    command = [sys.executable, "-c", WITHOUT.format(absent=absent), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 1, ran.stderr
    return one_line(ran.stderr)


def one_line(said: str) -> str:
    """What was said, if it is one line of ours."""
    lines = said.splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("kdserve: ")
    assert "Errno" not in lines[0]
    return lines[0]


@pytest.mark.parametrize("arguments", [("export", "s", "--out", "b"), ("trim", "s", "--out", "t", "--texts", "x")])
@pytest.mark.parametrize("absent", ["onnx", "safetensors", "sentence_transformers", "transformers"])
def test_a_missing_package_of_the_export_names_its_extra(tmp_path: Path, arguments: tuple[str, ...], absent: str):
    said = run(*arguments, cwd=tmp_path, absent=(absent,))
    assert said.endswith(f"this needs the package {absent}; install it with: pip install 'kdserve[export]'")


def test_a_teacher_names_both_extras_that_it_needs(tmp_path: Path):
    said = run("evaluate", "all-MiniLM-L6-v2", cwd=tmp_path, absent=("torch", "sentence_transformers"))
    assert said.endswith("pip install 'kdserve[distill,teacher]'")


def test_no_name_of_a_file_drives_the_terminal(tmp_path: Path):
    said = run("index", "build", "no\n\x1b[31m.txt", "--out", "i", cwd=tmp_path)
    assert said == "kdserve: there is no file no \ufffd[31m.txt; check the path"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "odd\n\x1b[31m.md").write_bytes(b"\xff")
    command = [
        sys.executable,
        "-m",
        "kdserve.cli",
        "index",
        "build",
        "notes",
        "--out",
        "i",
        "--bundle",
        "kdserve-static",
    ]
    ran = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    told, refused = ran.stderr.decode().splitlines()
    assert told.startswith("skipped: notes/odd \ufffd[31m.md line 1 is not UTF-8")
    assert refused.startswith("kdserve: there are no texts to index")


@pytest.mark.parametrize("name", [LONG, LONE])
@pytest.mark.parametrize(
    "arguments",
    [
        ("distill", "NAME", "--out", "s"),
        ("distill", "recipe.toml", "--out", "NAME"),
        ("grow", "NAME", "--out", "s"),
        ("export", "NAME", "--out", "b"),
        ("search", "NAME", "words"),
        ("classify", "NAME", "texts.txt"),
        ("evaluate", "NAME"),
        ("index", "build", "NAME", "--out", "i"),
        ("index", "build", "texts.txt", "--out", "i", "--bundle", "NAME"),
        ("bench", "NAME"),
    ],
)
def test_names_that_no_file_can_have_or_that_are_no_text(
    tmp_path: Path, monkeypatch, capsys, caplog, arguments: tuple[str, ...], name: str
):
    (tmp_path / "texts.txt").write_text("words\n", encoding="utf-8")
    recipe = 'name = "x"\nfamily = "static"\ndata = [{path = "none.tsv"}]\n'
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kdserve", *(name if given == "NAME" else given for given in arguments)])
    with pytest.raises(SystemExit) as ended:
        cli._run()
    one_line(str(ended.value.code))
    assert (capsys.readouterr().err, caplog.records) == ("", [])


@pytest.mark.parametrize("device", ["mps", "banana", ""])
def test_a_device_that_is_none(device: str):
    with pytest.raises(EncodeError, match="name cpu or cuda"):
        Encoder.load("kdserve-static", device=device)


def test_a_device_that_is_none_for_a_teacher():
    teacher = pytest.importorskip("kdserve.distill.teachers.embedder", reason="needs the extra distill")
    with pytest.raises(EncodeError, match="there is no device 'mps' here; name cpu or cuda"):
        teacher.load_teacher("all-MiniLM-L6-v2", device="mps")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here")
@pytest.mark.parametrize(
    "command",
    [
        "translate kdserve-gist texts.txt",
        "classify kdserve-langid texts.txt",
        "embed texts.txt",
        "evaluate kdserve-static",
        "bench kdserve-static",
        "mine texts.txt texts.txt",
        "index build texts.txt --out i",
    ],
)
def test_a_gpu_that_is_not_there_is_told_by_every_command_that_encodes(tmp_path: Path, command: str):
    (tmp_path / "texts.txt").write_text("words\n", encoding="utf-8")
    said = run(*command.split(), "--device", "cuda", "--threads", "1", cwd=tmp_path)
    assert "does not offer cuda; install 'kdserve[gpu]' in place of 'kdserve[cpu]', or load on device='cpu'" in said


@pytest.mark.parametrize(
    ("shell", "output"), [("models >&-", ""), ("embed - <&-", "kdserve: standard input holds no text; give texts\n")]
)
def test_streams_that_are_closed_are_those_of_a_daemon(tmp_path: Path, shell: str, output: str):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = f"{sys.executable} -m kdserve {shell}"
    ran = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("", output, 1 if output else 0)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{number} T\u00fcren\n" for number in range(3000)), encoding="utf-8")
    return texts


def test_a_reader_that_has_had_enough_is_no_error(texts: Path):
    command = f"{sys.executable} -m kdserve embed {texts} 2>said | head -n 1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(["bash", "-c", command], cwd=texts.parent, env=environment, capture_output=True, text=True)
    assert ran.stdout == "0\n"
    assert "kdserve:" not in (texts.parent / "said").read_text()


def test_an_output_that_is_no_utf_8_is_told(texts: Path):
    command = [sys.executable, "-m", "kdserve", "embed", texts]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "kdserve: standard output is ascii, without '\\xfc'; set PYTHONIOENCODING=utf-8"
    )


def test_an_argument_in_another_encoding_than_the_one_set_is_told(tmp_path: Path):
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **ascii}
    command = [sys.executable, "-m", "kdserve", "search", "index", "Brötchen".encode()]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr == "kdserve: 'Br\\xf6tchen' cannot be read as ascii, the encoding set here; set PYTHONUTF8=1\n"
