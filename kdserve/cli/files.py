"""Files that commands write: they appear whole at the end, or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kdserve.disk import write_error
from kdserve.errors import DataError


@contextmanager
def whole_file(out: Path) -> Iterator[IO[bytes]]:
    """Yield what becomes the file `out` when the block ends well.

    Raises:
        DataError: the file exists.
        FolderError: it cannot be written, or the disk is full.
    """
    if out.exists():
        raise DataError(f"{out} exists already; choose another name or remove it first")
    aside = out.with_name(f".{secrets.token_hex(8)}.partial")  # as others may write the same
    try:
        with aside.open("wb") as file:
            yield file
        if out.exists():
            raise DataError(f"{out} appeared meanwhile; it was left alone, choose another name")
        aside.rename(out)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        with suppress(OSError):  # as it is where nothing can be written, which is told above
            aside.unlink(missing_ok=True)
