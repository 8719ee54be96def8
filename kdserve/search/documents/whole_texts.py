"""Files that are one text each: UTF-8, or UTF-16 with its mark."""

from __future__ import annotations

from pathlib import Path

from kdserve.errors import DataError
from kdserve.lines import MAX_TEXT_BYTES, UTF_16, opened, read_lines

NUL_SHARE = 10
"""A file of which more than a tenth is NUL is no UTF-8 text, though NUL is UTF-8."""


def read_whole_text(path: Path) -> str:
    """The text of a file (gzipped if its name says so), its lines ended by \\n.

    Raises:
        DataError: a missing or damaged file, one in another encoding or that is no text, or longer than an index keeps.
    """
    text = _utf_16(path) if _has_mark(path) else _utf_8(path)
    if text.count("\0") * NUL_SHARE > len(text):
        raise DataError(f"{path} is no text, or UTF-16 without its mark; leave it out, or convert it to UTF-8")
    return text


def _has_mark(path: Path) -> bool:
    """Whether a file begins as UTF-16 does; a pipe, which is read once, has not."""
    if path.exists() and not path.is_file():
        return False
    with opened(path) as file:
        return file.read(2) in UTF_16


def _utf_8(path: Path) -> str:
    lines, size = [], 0
    for _, line in read_lines(path):
        lines.append(line)
        size += len(line.encode()) + 1
        if size > MAX_TEXT_BYTES:
            raise _too_long(path)
    return "\n".join(lines)


def _utf_16(path: Path) -> str:
    with opened(path) as file:
        read = file.read(2 * MAX_TEXT_BYTES + 1)
    if len(read) > 2 * MAX_TEXT_BYTES:
        raise _too_long(path)
    try:
        return read.decode("utf-16").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged UTF-16 ({error.reason}); save it again as UTF-8") from error


def _too_long(path: Path) -> DataError:
    return DataError(f"{path} is longer than {MAX_TEXT_BYTES // 1_000_000} MB, the limit of a text; cut it")
