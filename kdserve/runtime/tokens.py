"""Texts to token ids: normalising, splitting, special tokens and cutting, all from one tokenizer.json."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from kdserve.errors import EncodeError, FolderError
from kdserve.runtime.batches import ID_BYTES, PackedIds, pack_ids
from kdserve.runtime.library import encode_texts, open_tokenizer, read_spec
from kdserve.runtime.unigram import UnigramTokenizer, is_supported, require_ids

_CHARACTERS_PER_TOKEN = 256


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
    """A bundle's tokenizer. Unigram models start quickly and run here; all others run in the tokenizers library.

    `max_tokens`, special tokens included, the end that is cut, `pad_id`, `added_ids`, `special_ids` and the `size` of
    the vocabulary come from the file. Of a text no more than 256 characters for each of `max_tokens` are looked at: a
    line of many megabytes takes bounded time and memory.
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
            spec = read_spec(path)
            self.pad_id: int = spec["padding"]["pad_id"] if spec.get("padding") else 0
            self.max_tokens: int = spec["truncation"]["max_length"]
            self.size = len(spec["model"]["vocab"])
            require_ids(self.pad_id, self.max_tokens, *(token["id"] for token in spec["added_tokens"]))
            self.added_ids = {str(token["content"]): int(token["id"]) for token in spec["added_tokens"]}
            self.special_ids = frozenset(token["id"] for token in spec["added_tokens"] if token["special"])
            self._cuts_left: bool = spec["truncation"].get("direction") == "Left"
            if is_supported(spec):
                self._unigram = UnigramTokenizer(spec)
                if sum(map(len, self._unigram.frame)) > self.max_tokens:
                    raise ValueError("its special tokens are more than its limit")
            else:
                direction = "left" if self._cuts_left else "right"
                self._library = open_tokenizer(json.dumps(spec), max_tokens=self.max_tokens, direction=direction)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise FolderError(f"{path} is no tokenizer ({error}); export the bundle again") from error
        self._most_characters = self.max_tokens * _CHARACTERS_PER_TOKEN

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Turn texts into token ids with special tokens, cut at the limit. Raises as `pack`."""
        packed, is_cut = self.pack(texts)
        return TokenizedTexts(ids=[array("i", ids).tolist() for ids in packed], is_cut=is_cut)

    def pack(self, texts: Sequence[str]) -> tuple[list[PackedIds], list[bool]]:
        """Return what `tokenize` does, the ids packed.

        Raises:
            EncodeError: the tokenizers library failed.
        """
        looked_at = slice(-self._most_characters, None) if self._cuts_left else slice(self._most_characters)
        read = [text[looked_at] for text in texts]
        packed, is_cut = self._pack_with_library(read) if self._unigram is None else self._pack(read, self._unigram)
        return packed, [cut or len(text) > self._most_characters for cut, text in zip(is_cut, texts, strict=True)]

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens included, before any cut. Raises as `tokenize`."""
        if self._unigram is not None:
            num_special = sum(map(len, self._unigram.frame))
            return [len(ids) // ID_BYTES + num_special for ids in self._unigram.encode(texts)]
        assert self._library is not None
        num_special = self._library.num_special_tokens_to_add(False)
        counts = []
        for encoding in self._encode(texts):
            rest = [part.ids[: sum(part.attention_mask)] for part in encoding.overflowing]
            counts.append(len(encoding.ids) + sum(len(ids) - num_special for ids in rest))
        return counts

    def _pack(self, texts: Sequence[str], unigram: UnigramTokenizer) -> tuple[list[PackedIds], list[bool]]:
        before, after = pack_ids(unigram.frame)
        room = self.max_tokens * ID_BYTES - len(before) - len(after)
        packed = unigram.encode(texts)
        is_cut = [len(ids) > room for ids in packed]
        if any(is_cut):
            packed = [ids[max(0, len(ids) - room) :] if self._cuts_left else ids[:room] for ids in packed]
        return [before + ids + after for ids in packed] if before or after else packed, is_cut

    def _pack_with_library(self, texts: Sequence[str]) -> tuple[list[PackedIds], list[bool]]:
        encodings = self._encode(texts)
        return pack_ids([encoding.ids for encoding in encodings]), [bool(found.overflowing) for found in encodings]

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        assert self._library is not None
        try:
            return encode_texts(self._library, texts, parallel=self._parallel)
        except ValueError as error:
            raise EncodeError(f"{self._path} cannot read a text ({error}); export the bundle again") from error
