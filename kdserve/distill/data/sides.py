"""How what is read and what is written becomes tokens: a tokenizer a side, or one of transformers' for both."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from kdserve.distill.data.corpus import digest_of
from kdserve.distill.data.target_vocabulary import restore_target_vocabulary
from kdserve.distill.data.vocabulary import read_vocabulary
from kdserve.errors import FolderError, RecipeError
from kdserve.quiet import quiet_transformers

SIDES = ("source", "target")
"""The folders of the two tokenizers, where there are two."""


class Sides(Protocol):
    """The tokens of both sides."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the tokens depend on."""

    @property
    def paddings(self) -> tuple[int, int]:
        """The padding token of what is read and of what is written."""

    @property
    def first(self) -> int | None:
        """The token that every output is made to start with, if there is one: its language."""

    def read(self, texts: Sequence[str], *, language: str, most: int) -> list[list[int]]:
        """Return tokens of what is read, special ones included, `most` at most."""

    def write(self, texts: Sequence[str], *, most: int) -> list[list[int]]:
        """Return tokens of what is written, with its end, `most` at most."""

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of written tokens."""

    def save(self, folder: Path) -> None:
        """Write the tokenizers' files into a student's folder."""

    def tokens_by_language(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return the language tokens of what is read and of what is written, by language."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerPair:
    """One tokenizer.json a side."""

    source: Tokenizer
    target: Tokenizer
    paddings: tuple[int, int]
    first: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of both."""
        return digest_of(self.source.to_str(), self.target.to_str())

    def read(self, texts: Sequence[str], *, language: str, most: int) -> list[list[int]]:  # noqa: ARG002
        """Return tokens of what is read."""
        return _cut([encoding.ids for encoding in self.source.encode_batch_fast(list(texts))], most)

    def write(self, texts: Sequence[str], *, most: int) -> list[list[int]]:
        """Return tokens of what is written."""
        return _cut([encoding.ids for encoding in self.target.encode_batch_fast(list(texts))], most)

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of written tokens."""
        return [text.strip() for text in self.target.decode_batch([list(row) for row in rows])]

    def save(self, folder: Path) -> None:
        """Write source/tokenizer.json and target/tokenizer.json."""
        for name, tokenizer in zip(SIDES, (self.source, self.target), strict=True):
            (folder / name).mkdir()
            tokenizer.save(str(folder / name / "tokenizer.json"), pretty=False)

    def tokens_by_language(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """There are none."""
        return {}, {}


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersSides:
    """A tokenizer of transformers; `source_codes` and `target_code` are its names of languages, where it has some."""

    tokenizer: Any
    prefix: str = ""
    source_codes: Mapping[str, str] = field(default_factory=dict)
    target_code: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of its vocabulary and of the settings."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        return digest_of(
            type(self.tokenizer).__name__, vocabulary, self.prefix, dict(self.source_codes), self.target_code
        )

    @property
    def paddings(self) -> tuple[int, int]:
        """The same on both sides."""
        return (int(self.tokenizer.pad_token_id),) * 2

    @property
    def first(self) -> int | None:
        """The token of the target language, where outputs begin with it; those of mBART's first version end with it."""
        if not self.target_code:
            return None
        number = int(self.tokenizer.convert_tokens_to_ids(self._token(self.target_code)))
        return number if self.write(["a"], most=8)[0][0] == number else None

    def read(self, texts: Sequence[str], *, language: str, most: int) -> list[list[int]]:
        """Return tokens of what is read, in the language's own way."""
        code = self._code(language) if self.source_codes else ""
        with quiet_transformers(), _speaking(self.tokenizer, "src_lang", code):
            found = self.tokenizer([self.prefix + text for text in texts], truncation=True, max_length=most)
        return list(found["input_ids"])

    def write(self, texts: Sequence[str], *, most: int) -> list[list[int]]:
        """Return tokens of what is written."""
        with quiet_transformers(), _speaking(self.tokenizer, "tgt_lang", self.target_code):
            found = self.tokenizer(text_target=list(texts), truncation=True, max_length=most)
        return list(found["input_ids"])

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of written tokens."""
        found = self.tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
        return [text.strip() for text in found]

    def save(self, folder: Path) -> None:
        """Write what transformers writes of its tokenizer."""
        self.tokenizer.save_pretrained(folder)

    def tokens_by_language(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return the tokens of the named codes; the target language is "en", that of the data's sources."""
        sources = {language: self._token(code) for language, code in self.source_codes.items()}
        return sources, {"en": self._token(self.target_code)} if self.first is not None else {}

    def _code(self, language: str) -> str:
        try:
            return self.source_codes[language]
        except KeyError:
            raise RecipeError(f"teacher.source_codes has no {language}, which the data has; add its code") from None

    def _token(self, code: str) -> str:
        """The token of a language code: M2M100 writes "__en__" for "en"."""
        known = getattr(self.tokenizer, "lang_code_to_token", {})
        token = str(known.get(code, code))
        if self.tokenizer.convert_tokens_to_ids(token) in (None, self.tokenizer.unk_token_id):
            raise RecipeError(
                f"the teacher's tokenizer has no language {code!r}; mend teacher.source_codes or target_code"
            )
        return token


def open_sides(
    folder: Path,
    *,
    paddings: tuple[int, int],
    prefix: str = "",
    source_codes: Mapping[str, str] | None = None,
    target_code: str = "",
) -> Sides:
    """Open the tokenizers of an encoder-decoder's folder; `paddings` are its configuration's.

    Raises:
        FolderError: there is none that can be read.
        RecipeError: a prefix or codes for tokenizers that know none.
    """
    if (folder / SIDES[0] / "tokenizer.json").is_file():
        if prefix or target_code:
            raise RecipeError(f"{folder} has a tokenizer a side; remove teacher.prefix, source_codes and target_code")
        source, target = (read_vocabulary(folder / name, key="the folder") for name in SIDES)
        if json.loads(target.to_str())["model"]["type"] == "WordLevel":  # of a bundle that was opened again
            vocabulary = target.get_vocab()
            target = restore_target_vocabulary(sorted(vocabulary, key=vocabulary.__getitem__))
        return TokenizerPair(source=source, target=target, paddings=paddings)
    from transformers import AutoTokenizer

    try:
        with quiet_transformers(), warnings.catch_warnings():
            # without it Marian's tokenizer leaves punctuation as it is, as kdserve's bundles do
            warnings.filterwarnings("ignore", message=".*sacremoses")
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise FolderError(f"{folder} has no tokenizer that transformers opens ({error}); check the model") from error
    return TransformersSides(
        tokenizer=tokenizer,
        prefix=prefix,
        source_codes=source_codes or {},
        target_code=target_code,
    )


def read_source(folder: Path, *, key: str) -> Tokenizer:
    """Return the tokenizer of what a student reads, one that embeds or writes. Raises as `read_vocabulary`."""
    own = folder / SIDES[0]
    return read_vocabulary(own if own.is_dir() else folder, key=key)


@contextmanager
def _speaking(tokenizer: Any, side: str, code: str) -> Iterator[None]:
    """Set a tokenizer's language inside the block, if a code is given."""
    if not code:
        yield
        return
    before = getattr(tokenizer, side, None)
    setattr(tokenizer, side, code)
    try:
        yield
    finally:
        setattr(tokenizer, side, before)


def _cut(rows: list[list[int]], most: int) -> list[list[int]]:
    """Cut long rows, keeping the last token, which ends them."""
    return [row if len(row) <= most else [*row[: most - 1], row[-1]] for row in rows]
