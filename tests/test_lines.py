"""Lines end where files end them, and nowhere else."""

import gzip
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from kdserve import lines as lines_module
from kdserve.errors import DataError
from kdserve.lines import read_batches, read_lines


def written(folder, content, name="a.txt"):
    path = folder / name
    path.write_bytes(content)
    return path


def texts(path):
    return [line for _, line in read_lines(path)]


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_unicode_ends_of_lines_are_characters_like_others(tmp_path, inside):
    assert texts(written(tmp_path, f"one{inside}two\nthree\n".encode())) == [f"one{inside}two", "three"]


def test_all_three_ends_of_lines_are_ends(tmp_path):
    assert texts(written(tmp_path, b"a\nb\r\nc\rd\n\ne")) == ["a", "b", "c", "d", "", "e"]


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_ends_that_lie_across_blocks_are_one(tmp_path, monkeypatch, block):
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", block)
    assert texts(written(tmp_path, "ä\r\nbü\r\rc".encode())) == ["ä", "bü", "", "c"]


def test_a_byte_order_mark_is_no_character(tmp_path):
    assert texts(written(tmp_path, b"\xef\xbb\xbfa\nb")) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ok\ncaf\xe9\n", r"a.txt line 2 is not UTF-8 \(byte 0xe9 at offset 6\).*iconv -f ENCODING -t UTF-8"),
        (b"\xef\xbb\xbfcaf\xe9\n", r"line 1 is not UTF-8 \(byte 0xe9 at offset 6\)"),
        ("電車\n".encode("cp932"), r"line 1 is not UTF-8 .*-f ENCODING"),
        ("поезд\n".encode("cp1251"), r"line 1 is not UTF-8 .*-f ENCODING"),
        ("hello\n".encode("utf-16"), r"line 1 is not UTF-8 \(byte 0xff at offset 0\).*UTF-16"),
        (gzip.compress(b"hello\n"), "a.txt holds gzip where text should be; unpack it, or let its name end in .gz"),
    ],
)
def test_what_is_not_utf_8_is_named_with_its_place(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        texts(written(tmp_path, content))


def test_a_line_beyond_the_limit_is_refused_by_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "MAX_TEXT_BYTES", 2_000_000)
    with pytest.raises(DataError, match="line 2 is longer than 2 MB, the limit of a line"):
        texts(written(tmp_path, b"a\n" + b"x" * 2_000_001))


def test_damaged_and_wrongly_named_files_are_errors(tmp_path):
    whole = gzip.compress(b"one\ntwo\n" * 1000)
    for content in (b"no gzip", whole[: len(whole) // 2], whole[:20] + b"\0\0\0\0" + whole[24:]):
        with pytest.raises(DataError, match="cannot be read"):
            texts(written(tmp_path, content, "a.txt.gz"))
    with pytest.raises(DataError, match="is a folder, not a file"):
        texts(tmp_path)


def test_a_file_is_read_in_whole_batches_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "BLOCK_BYTES", 3)
    path = written(tmp_path, b"".join(b"%d\n" % number for number in range(25)))
    assert [len(batch) for batch in read_batches(path, 10)] == [10, 10, 5]
    assert [line for batch in read_batches(path, 10) for line in batch] == texts(path)


def test_of_a_pipe_what_has_come_is_a_batch():
    reader, writer = os.pipe()
    batches = read_batches(Path(f"/dev/fd/{reader}"), 10)
    os.write(writer, b"one\ntwo\nthr")
    assert next(batches) == ["one", "two"]
    os.write(writer, b"ee\n")
    assert next(batches) == ["three"]
    os.close(writer)
    assert list(batches) == []
    os.close(reader)


ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "runtime" / "bundles" / "transformer"


@pytest.mark.parametrize(
    "command", [("embed", "-", "--bundle", TINY), ("classify", "kdserve-langid"), ("translate", "kdserve-gist")]
)
def test_a_line_that_was_typed_is_answered_before_the_next(command):
    command = [sys.executable, "-m", "kdserve.cli", *map(str, command)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        for line in (b"Wo ist der Bahnhof?\n", b"Danke.\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert select.select([process.stdout], [], [], 600)[0]
            assert process.stdout.readline().strip()
        process.stdin.close()
        assert process.stdout.read() == b""
