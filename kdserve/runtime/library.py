"""The one door to the tokenizers library, whose failures have no kinds of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Normalizer

from kdserve.runtime.normalizer import with_present_normalizer


def read_spec(path: Path) -> dict[str, Any]:
    """Read a tokenizer.json as every reader of a bundle does: an older normalizer of ours becomes that of today.

    Raises:
        OSError, ValueError: there is no JSON in UTF-8.
    """
    return with_present_normalizer(json.loads(path.read_text(encoding="utf-8")))


def parse_spec(text: str) -> dict[str, Any]:
    """Return the JSON of a tokenizer as the library of today writes it, the normalizer as `read_spec` does.

    Raises:
        ValueError: the library cannot open it.
    """
    with _as_value_errors():
        return with_present_normalizer(json.loads(Tokenizer.from_str(text).to_str()))


def open_tokenizer(text: str, *, max_tokens: int = 0, direction: str = "right") -> Tokenizer:
    """Open the JSON of a tokenizer, without padding, to cut texts at `max_tokens`, or nowhere where that is 0.

    Raises:
        ValueError: the library cannot.
    """
    with _as_value_errors():
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if max_tokens:
            tokenizer.enable_truncation(max_tokens, direction=direction)
        return tokenizer


def open_normalizer(spec: Mapping[str, Any]) -> Normalizer:
    """Open the JSON of a normalizer alone. Raises as `open_tokenizer`."""
    empty = json.loads(Tokenizer(WordLevel()).to_str())
    normalizer: Normalizer = open_tokenizer(json.dumps({**empty, "normalizer": spec})).normalizer
    return normalizer


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str], *, parallel: bool) -> list[Encoding]:
    """Encode texts, over the CPUs of this process or on this thread. Raises ValueError where the library cannot."""
    with _as_value_errors():
        if parallel and len(texts) > 1:
            return list(tokenizer.encode_batch_fast(list(texts)))
        return [tokenizer.encode(text) for text in texts]  # a batch of any size would take other threads


@contextmanager
def _as_value_errors() -> Iterator[None]:
    """Turn what the library raises, Exception itself or a panic that is not even one, into ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3 offers no name to import
            raise
        raise ValueError(str(error)) from error
