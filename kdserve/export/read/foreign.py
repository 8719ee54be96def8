"""The one boundary to libraries that read a folder: what they raise becomes a FolderError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

from kdserve.errors import FolderError, KdserveError
from kdserve.quiet import quiet_transformers

_OURS = (KdserveError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)
_LONGEST = 200


@contextmanager
def opening(path: Path, library: str) -> Iterator[None]:
    """Say of any failure inside the block that `library` cannot open `path`, with the library's words.

    Raises:
        FolderError: the library failed, in whatever way.
    """
    try:
        with quiet_transformers() if find_spec("transformers") else nullcontext():
            yield
    except _OURS:
        raise
    except BaseException as error:
        # safetensors, tokenizers, transformers and torch share no base, and a panic of Rust is no Exception even
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FolderError(
            f"{path} cannot be opened by {library} ({reason[:_LONGEST]}); make or download the folder again"
        ) from error
