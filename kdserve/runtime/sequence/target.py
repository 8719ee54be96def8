"""From token ids back to text, by a tokenizer.json whose model no longer matters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from kdserve.errors import EncodeError, FolderError
from kdserve.runtime.library import open_tokenizer, read_spec
from kdserve.runtime.sequence.numbers import Digits

_SPACES = "▁Ġ"
"""How the space before a word is written in tokens: by SentencePiece, and by BPE over bytes."""


class TargetTokenizer:
    """Reads ids back, which are below `size`. Special tokens are left out of texts."""

    def __init__(self, path: Path) -> None:
        """Open a bundle's file.

        Raises:
            FolderError: the file is no tokenizer of whole words, which bundles hold (`as_words`).
        """
        self._path = path
        try:
            spec = read_spec(path)
            self._library = open_tokenizer(json.dumps(spec))
            added = (token["id"] for token in spec["added_tokens"])
            self.size = 1 + max(*spec["model"]["vocab"].values(), *added)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise FolderError(f"{path} is no tokenizer ({error}); export the translator again") from error

    @cached_property
    def digits(self) -> Digits:
        """The tokens that write numbers."""
        return Digits.of(self._library.get_vocab(with_added_tokens=False), self._library.decode_batch)

    def id_of(self, token: str) -> int | None:
        """The id of a token, None where there is none."""
        found: int | None = self._library.token_to_id(token)
        return found

    def has_word(self, word: str) -> bool:
        """Say whether a word is one token."""
        return any(self.id_of(mark + word) is not None for mark in _SPACES)

    def read_back(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of ids.

        Raises:
            EncodeError: an id is none of this tokenizer's.
        """
        for own in ids:
            if own and not 0 <= min(own) <= max(own) < self.size:
                unknown = min(own) if min(own) < 0 else max(own)
                raise EncodeError(f"{self._path} has no token {unknown}; export the translator again")
        texts: list[str] = self._library.decode_batch([list(own) for own in ids], skip_special_tokens=True)
        return [text.strip() for text in texts]
