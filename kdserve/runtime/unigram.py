"""Unigram tokenization (Kudo 2018, arXiv:1804.10959) with a quick start and a memory for words.

The tokenizers library needs 0.2 s and 80 MB to build its search tree for 64,000 pieces. Here the pieces stay in the
dictionary that JSON gives, each new word takes one Viterbi pass, and a word seen before takes one look-up. Normalising
and splitting remain the library's own. Same tokens, id for id: the tests compare the two.
"""

from __future__ import annotations

import json
import re
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdserve.runtime.batches import PackedIds, pack_ids
from kdserve.runtime.library import open_tokenizer
from kdserve.runtime.normalizer import INVISIBLE, MARKS, NORMALIZER, SPACES

_UNKNOWN_PENALTY = 10.0  # tokenizers: K_UNK_PENALTY in models/unigram/model.rs
_MEMORY_BYTES = 8 << 20
_ENTRY_BYTES = 100  # what a dictionary takes for an entry, about
_LONGEST_REMEMBERED = 64
_WORD_START = "▁"
_BEGINNING = 3
_LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"}
_STRIPS = [SPACES, {"type": "Strip", "strip_left": True, "strip_right": True}]

_UNSEEN = b"unseen"
_Memory = dict[str, PackedIds | None]


class UnigramTokenizer:
    """The pieces of a Unigram model and the best way to cut a text into them.

    `frame` holds the ids of the special tokens before and after a text.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Take the parsed tokenizer.json; `is_supported` must hold for it."""
        model = spec["model"]
        vocabulary: list[tuple[str, float]] = model["vocab"]
        self._ids = {piece: number for number, (piece, _) in enumerate(vocabulary)}
        self._scores = array("d", (score for _, score in vocabulary))
        self._longest = _longest_by_beginning(self._ids)
        self._pairs = {piece[:2] for piece in self._ids}
        self._unknown_id: int = model["unk_id"]
        require_ids(self._unknown_id)
        self._unknown_score = min(map(self._scores.__getitem__, self._ids.values())) - _UNKNOWN_PENALTY
        self.frame = _special_frame(spec) or ([], [])
        self._bytes = [self._ids.get(f"<0x{byte:02X}>") for byte in range(256)] if model["byte_fallback"] else []
        special = sorted((token["content"] for token in spec["added_tokens"]), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, special))})" if special else r"(?!)")
        ids = pack_ids([[token["id"]] for token in spec["added_tokens"]])
        self._special_ids = dict(zip((token["content"] for token in spec["added_tokens"]), ids, strict=True))
        frame = {**spec, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        frame["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["", 0.0]]}
        library = open_tokenizer(json.dumps(frame))
        self._normalize = library.normalizer.normalize_str
        steps = _steps(spec, "normalizer", "normalizers")
        self._strips = steps[-2:] == _STRIPS
        self._spaces_are_alike = steps[:3] == [*INVISIBLE] and (self._strips or spec["normalizer"] == NORMALIZER)
        self._split = library.pre_tokenizer.pre_tokenize_str
        self._splits_at_spaces_alone = len(_steps(spec, "pre_tokenizer", "pretokenizers")) == 1
        self._words: _Memory = {}
        self._segments: _Memory = {}
        self._remembered_bytes = 0

    def encode(self, texts: Sequence[str]) -> list[PackedIds]:
        """Return the ids of each text, without frame and without a limit; what spells a special token is one."""
        together = "\n".join(texts)
        # a variation selector takes a wide space before it for an emoji
        alike = self._spaces_are_alike and "\ufe0e" not in together and "\ufe0f" not in together
        if any(token in together for token in self._special_ids):
            return [self._encode_with_special(text, alike) for text in texts]
        return [self._encode(text, alike) for text in texts]

    def _encode_with_special(self, text: str, alike: bool) -> PackedIds:
        known = self._special_ids
        parts = (part for part in self._special.split(text) if part)
        return b"".join(known[part] if part in known else self._encode(part, alike) for part in parts)

    def _encode(self, text: str, alike: bool) -> PackedIds:
        """Encode what spells no special token; where all white space is `alike`, it parts words wherever it stands, but
        at an end it counts unless stripped.
        """
        if (known := self._words.get(text)) is not None:  # one word, as when words are counted
            return known
        alike = alike and (self._strips or not (text[:1].isspace() or text[-1:].isspace()))
        words = text.split() if alike else text.split(" ")
        try:
            return b"".join(map(self._words.__getitem__, words))  # type: ignore[arg-type]
        except (KeyError, TypeError):  # a word that is new, or None
            pass
        found: list[PackedIds] = []
        for word in words:
            ids = self._words.get(word, _UNSEEN)
            ids = self._encode_word(word) if ids is _UNSEEN else ids
            if ids is None:  # spaces meet here: only the text as a whole shows what becomes of them
                return self._encode_normalized(self._normalize(text))
            found.append(ids)
        return b"".join(found)

    def _encode_word(self, word: str) -> PackedIds | None:
        """Return the ids of what stands between two spaces, or None where they depend on the neighbours.

        Spaces at a word's ends meet others there, unless all that meet become one and none is left at a text's ends:
        then a word without its own is the same everywhere, and one that is nothing else has no ids.
        """
        normalized = self._normalize(word)
        alone = not normalized.startswith(_WORD_START) and not normalized.endswith(_WORD_START)
        alone = alone and (self._strips or normalized.strip() == normalized != "")
        ids = self._encode_normalized(normalized) if alone else None
        self._remember(self._words, word, ids)
        return ids

    def _encode_normalized(self, normalized: str) -> PackedIds:
        if self._splits_at_spaces_alone and normalized and not (" " in normalized or _WORD_START in normalized):
            return pack_ids([self._cut(_WORD_START + normalized)])[0]
        found: list[PackedIds] = []
        for segment, _ in self._split(normalized):
            ids = self._segments.get(segment)
            if ids is None:
                (ids,) = pack_ids([self._cut(segment)])
                self._remember(self._segments, segment, ids)
            found.append(ids)
        return b"".join(found)

    def _remember(self, memory: _Memory, text: str, ids: PackedIds | None) -> None:
        """Keep what is short; all is forgotten when it has grown to `_MEMORY_BYTES`."""
        if len(text) > _LONGEST_REMEMBERED:
            return
        self._remembered_bytes += sys.getsizeof(text) + sys.getsizeof(ids) + _ENTRY_BYTES
        if self._remembered_bytes > _MEMORY_BYTES:
            self._words.clear()
            self._segments.clear()
            self._remembered_bytes = 0
        memory[text] = ids

    def _cut(self, segment: str) -> list[int]:
        """Find the cut of highest total score; of equals, the one whose last piece starts first."""
        id_of, scores, longest = self._ids.get, self._scores, self._longest
        size = len(segment)
        best = [0.0] + [float("-inf")] * size
        starts = [0] * (size + 1)
        for start, character in enumerate(segment):
            here, end = best[start], start + 1
            number = id_of(character)
            total = here + (self._unknown_score if number is None else scores[number])
            if total > best[end]:
                best[end], starts[end] = total, start
            if segment[start : start + 2] not in self._pairs:  # most pairs of characters begin no piece
                continue
            reach = longest.get(segment[start : start + _BEGINNING], 2)
            for end in range(start + 2, min(start + reach, size) + 1):
                number = id_of(segment[start:end])
                if number is not None and here + scores[number] > best[end]:
                    best[end], starts[end] = here + scores[number], start
        return self._ids_of(segment, starts)

    def _ids_of(self, segment: str, starts: list[int]) -> list[int]:
        """Walk the best cut from its end; neighbouring unknown characters fuse, then fall back to bytes."""
        pieces: list[str] = []
        end = len(segment)
        while end > 0:
            start = starts[end]
            if segment[start:end] not in self._ids:
                while start > 0 and segment[starts[start] : start] not in self._ids:
                    start = starts[start]
            pieces.append(segment[start:end])
            end = start
        ids: list[int] = []
        for piece in reversed(pieces):
            number = self._ids.get(piece)
            ids += [number] if number is not None else self._fall_back(piece)
        return ids

    def _fall_back(self, piece: str) -> list[int]:
        ids = [self._bytes[byte] for byte in piece.encode()] if self._bytes else [None]
        known = [number for number in ids if number is not None]
        return known if len(known) == len(ids) else [self._unknown_id]


def require_ids(*numbers: object) -> None:
    """Raise ValueError where a number of a tokenizer.json is none that a token can have."""
    for number in numbers:
        if type(number) is not int or not 0 <= number < 1 << 31:
            raise ValueError(f"{number!r} is no id or limit")


def is_supported(spec: Mapping[str, Any]) -> bool:
    """Say whether a parsed tokenizer.json is a Unigram model whose words do not depend on their neighbours."""
    model = spec["model"]
    if model["type"] != "Unigram" or model["unk_id"] is None or _special_frame(spec) is None:
        return False
    plain = ("normalized", "single_word", "lstrip", "rstrip")
    if any(token[flag] for token in spec["added_tokens"] for flag in plain):
        return False
    normalizers, splitters = _steps(spec, "normalizer", "normalizers"), _steps(spec, "pre_tokenizer", "pretokenizers")
    local = normalizers[:-2] if normalizers[-2:] == _STRIPS else normalizers
    return all(map(_is_local_normalizer, local)) and bool(normalizers) and _are_local_splitters(splitters)


def _special_frame(spec: Mapping[str, Any]) -> tuple[list[int], list[int]] | None:
    """Return the ids of special tokens before and after a text, or None where the template says more than that."""
    template = spec["post_processor"]
    if template is None:
        return [], []
    if template["type"] != "TemplateProcessing":
        return None
    ids: list[list[int]] = [[]]
    for step in template["single"]:
        if "Sequence" in step:
            ids.append([])
        else:
            found = template["special_tokens"][step["SpecialToken"]["id"]]["ids"]
            require_ids(*found)
            ids[-1] += found
    return (ids[0], ids[1]) if len(ids) == 2 else None


def _steps(spec: Mapping[str, Any], name: str, plural: str) -> list[Mapping[str, Any]]:
    step = spec.get(name) or {"type": "Sequence", plural: []}
    return list(step[plural]) if step["type"] == "Sequence" else [step]


def _is_local_normalizer(step: Mapping[str, Any]) -> bool:
    return step["type"] in _LOCAL_NORMALIZERS or step in (SPACES, MARKS, *INVISIBLE)


def _are_local_splitters(steps: list[Mapping[str, Any]]) -> bool:
    """Words may be told by their spaces first and get their "▁" last, or both at once and first."""
    kinds = [step["type"] for step in steps]
    if set(kinds) - {"WhitespaceSplit", "Punctuation", "Digits", "Metaspace"} or kinds.count("Metaspace") != 1:
        return False
    told = {"replacement": _WORD_START, "prepend_scheme": "always", "split": True}
    if not told.items() <= steps[kinds.index("Metaspace")].items():
        return False
    return bool(kinds[0] == "Metaspace" or (kinds[0] == "WhitespaceSplit" and kinds[-1] == "Metaspace"))


def _longest_by_beginning(pieces: Iterable[str]) -> dict[str, int]:
    """Map the first three characters of each longer piece to the length of the longest that begins so."""
    longest: dict[str, int] = {}
    for piece in pieces:
        beginning = piece[:_BEGINNING]
        if len(piece) > longest.get(beginning, _BEGINNING - 1):
            longest[beginning] = len(piece)
    return longest
