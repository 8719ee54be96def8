"""Texts to token ids: normalising, splitting, special tokens and cutting, all from one tokenizer.json."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kdserve.errors import FolderError
from kdserve.runtime.unigram import UnigramTokenizer, is_supported


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedTexts:
    """Token ids of each of N texts, special tokens included, and which texts were longer and cut at the limit."""

    ids: list[list[int]]
    is_cut: list[bool]

    @property
    def num_tokens(self) -> list[int]:
        """How many tokens of each text are read."""
        return [len(text) for text in self.ids]


class TextTokenizer:
    """A bundle's tokenizer. Unigram models start quickly and run here; all others, and the rare text that spells a
    special token, go through the tokenizers library.

    `max_tokens`, special tokens included, and `pad_id` come from the file.
    """

    def __init__(self, path: Path, *, parallel: bool) -> None:
        """Read a tokenizer; `parallel` lets the library split lists of texts over the CPUs of this process.

        Raises:
            FolderError: the file is no tokenizer.
        """
        self._path, self._parallel = path, parallel
        self._library: Tokenizer | None = None
        self._unigram: UnigramTokenizer | None = None
        try:
            spec: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            self.pad_id: int = spec["padding"]["pad_id"] if spec.get("padding") else 0
            self.max_tokens: int = spec["truncation"]["max_length"]
            if is_supported(spec):
                self._unigram = UnigramTokenizer(spec)
                special = [re.escape(token["content"]) for token in spec["added_tokens"]]
                self._special = re.compile("|".join(special) or r"(?!)")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FolderError(f"{path} is no tokenizer ({error}); export the bundle again") from error
        if self._unigram is None:
            self._library = self._open_library()

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Turn texts into token ids with special tokens, cut at the limit."""
        if self._unigram is None:
            return self._tokenize_with_library(texts)
        ids: list[list[int]] = []
        is_cut: list[bool] = []
        before, after = self._unigram.frame
        room = self.max_tokens - len(before) - len(after)
        for text in texts:
            if self._special.search(text):
                spelled = self._tokenize_with_library([text])
                ids += spelled.ids
                is_cut += spelled.is_cut
                continue
            content = self._unigram.encode(text)
            is_cut.append(len(content) > room)
            ids.append([*before, *content[:room], *after])
        return TokenizedTexts(ids=ids, is_cut=is_cut)

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens included, before any cut."""
        counts = []
        for text in texts:
            if self._unigram is not None and not self._special.search(text):
                counts.append(len(self._unigram.encode(text)) + sum(map(len, self._unigram.frame)))
                continue
            self._library = self._library or self._open_library()
            encoding = self._library.encode(text)
            rest = [part.ids[: sum(part.attention_mask)] for part in encoding.overflowing]
            num_special = self._library.num_special_tokens_to_add(False)
            counts.append(len(encoding.ids) + sum(len(ids) - num_special for ids in rest))
        return counts

    def _tokenize_with_library(self, texts: Sequence[str]) -> TokenizedTexts:
        if self._library is None:
            self._library = self._open_library()
        if self._parallel and len(texts) > 1:
            encodings = self._library.encode_batch_fast(list(texts))
        else:  # one by one stays on this thread, a batch of any size would not
            encodings = [self._library.encode(text) for text in texts]
        return TokenizedTexts(
            ids=[encoding.ids for encoding in encodings], is_cut=[bool(encoding.overflowing) for encoding in encodings]
        )

    def _open_library(self) -> Tokenizer:
        try:
            tokenizer = Tokenizer.from_file(str(self._path))
        except Exception as error:
            # the tokenizers library raises nothing narrower than Exception itself
            raise FolderError(f"{self._path} is no tokenizer ({error}); export the bundle again") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer
