"""The one boundary to libraries that read a folder: what they raise becomes a FolderError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model's configuration with all the defaults of transformers.

    Raises:
        FolderError: transformers cannot open it.
    """
    with opening(folder / "config.json", "transformers"):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        settings: dict[str, Any] = config.to_dict()
    return settings
