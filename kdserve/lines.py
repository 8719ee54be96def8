"""The lines of a file or of standard input: UTF-8, ended by \\n, \\r\\n or \\r and by nothing else.

Unicode knows more ends of lines (U+2028, U+0085, the form feed), but texts hold them inside.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kdserve.errors import DataError

MAX_TEXT_BYTES = 10_000_000
"""Longer lines and texts are refused: a text is held in memory whole."""
STDIN = Path("-")
BLOCK_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_lines(path: Path, *, keep_ends: bool = False) -> Iterator[tuple[int, str]]:
    """The numbered lines of a file (gzipped if its name says so), as they come; it holds one line and a block.

    Raises:
        DataError: a missing or damaged file, a line that is not UTF-8, or is longer than an index can keep.
    """
    return (numbered for numbered in _numbered_lines(path, keep_ends=keep_ends) if numbered is not None)


def read_batches(path: Path, most: int) -> Iterator[list[str]]:
    """The lines of a file, `most` at once; of a pipe or a terminal those that have come, so that none of them waits.

    Raises:
        DataError: as `read_lines`.
    """
    batch: list[str] = []
    for numbered in _numbered_lines(path):
        if numbered is not None:
            batch.append(numbered[1])
        if batch and (numbered is None or len(batch) == most):
            yield batch
            batch = []
    if batch:
        yield batch


def _numbered_lines(path: Path, *, keep_ends: bool = False) -> Iterator[tuple[int, str] | None]:
    """The numbered lines of a file; None where more may have to be waited for."""
    number = offset = 0
    with opened(path) as file:
        for line in _raw_lines(file, path):
            if line is None:
                yield None
                continue
            number += 1
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                begin = offset + error.start + (len(BOM) if number == 1 and line.startswith(BOM) else 0)
                raise _no_utf8(path, number, line, begin, error.object[error.start]) from error
            offset += len(line)
            yield number, text if keep_ends else text.rstrip("\r\n")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file or standard input for reading; what goes wrong inside becomes a DataError.

    Raises:
        DataError: the file is missing, is a folder, may not be read, or is damaged.
    """
    if path == STDIN:
        yield sys.stdin.buffer
        return
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}; check the path") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, not a file; name a file in it") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        advice = {errno.EACCES: "check its permissions", errno.EMFILE: "close some files or raise `ulimit -n`"}
        what = advice.get(getattr(error, "errno", None) or 0, "restore the file")
        raise DataError(f"{path} cannot be read ({reason}); {what}") from error


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name.

    Raises:
        DataError: there can be nothing of this name, or the folders above may not be read.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error


def show(path: Path) -> str:
    """Name of the file in a message."""
    return "standard input" if path == STDIN else str(path)


def _raw_lines(file: IO[bytes], path: Path) -> Iterator[bytes | None]:
    parts: list[bytes] = []
    size, number, is_whole = 0, 0, _is_whole(file)
    while block := file.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
        if block.endswith(b"\r"):
            block += file.read(1)  # so that \r\n does not fall apart
        for part in block.splitlines(keepends=True):
            parts.append(part)
            size += len(part)
            if size > MAX_TEXT_BYTES:
                raise DataError(
                    f"{show(path)} line {number + 1} is longer than {MAX_TEXT_BYTES // 1_000_000} MB, the limit of a "
                    "line; cut it into several"
                )
            if part.endswith((b"\n", b"\r")):
                yield b"".join(parts)
                number += 1
                parts, size = [], 0
        if not is_whole:
            yield None
    if parts:
        yield b"".join(parts)


def _is_whole(file: IO[bytes]) -> bool:
    """Whether all lines are there, as in a file on disk; not so in a pipe and in a terminal."""
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError:  # bytes in memory
        return True


def _no_utf8(path: Path, number: int, line: bytes, offset: int, byte: int) -> DataError:
    if number == 1 and line.startswith(GZIP):
        advice = "unpack it once" if path.suffix == ".gz" else "unpack it, or let its name end in .gz"
        return DataError(f"{show(path)} holds gzip where text should be; {advice}")
    is_utf_16 = number == 1 and line.startswith(UTF_16)
    names = "CP1252, CP1251, SHIFT_JIS or another"
    known = "UTF-16 -t UTF-8" if is_utf_16 else f"ENCODING -t UTF-8 (as it was saved: {names})"
    return DataError(
        f"{show(path)} line {number} is not UTF-8 (byte 0x{byte:02x} at offset {offset}); convert it: iconv -f {known}"
    )
