"""From a SentencePiece model to a tokenizer.json, its fields read by the protobuf format's own rules.

sentencepiece_model.proto: ModelProto.pieces = 1 (piece 1, score 2, type 3), trainer_spec = 2 (model_type 3,
treat_whitespace_as_suffix 24, byte_fallback 35), normalizer_spec = 3 (precompiled_charsmap 2, add_dummy_prefix 3,
remove_extra_whitespaces 4, escape_whitespaces 5).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdserve.errors import FolderError

_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_TRAINED_OTHERWISE = {24: "treat_whitespace_as_suffix", 35: "byte_fallback"}
_NORMALISED_OTHERWISE = {3: "add_dummy_prefix", 5: "escape_whitespaces"}
_LONGEST_VARINT = 10
_UNKNOWN_PENALTY = 10.0  # SentencePiece: kUnkPenalty
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
"""Words begin with ▁, the first one too: how SentencePiece splits, and reads back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """A model: pieces with scores and kinds in order, the map of its normaliser, and whether it squeezes spaces."""

    pieces: tuple[tuple[str, float, int], ...]
    kind: int
    charsmap: bytes
    squeezes_spaces: bool


def read_pieces(path: Path) -> Pieces:
    """Read a SentencePiece model.

    Raises:
        FolderError: it is neither a Unigram nor a BPE model, or has a setting that `tokenizer_of` does not know.
        ValueError, LookupError, struct.error: it is damaged.
    """
    pieces, kind, charsmap, squeezes, others = [], _UNIGRAM, b"", True, list[str]()
    for number, content in _fields(path.read_bytes()):
        if number == 1 and isinstance(content, bytes):
            own = dict(_fields(content))
            score = struct.unpack("<f", bytes(own[2]))[0] if 2 in own else 0.0
            pieces.append((bytes(own[1]).decode(), score, int(own.get(3, _NORMAL))))
        elif number == 2 and isinstance(content, bytes):
            own = dict(_fields(content))
            kind = int(own.get(3, _UNIGRAM))
            others += [name for field, name in _TRAINED_OTHERWISE.items() if own.get(field, 0)]
        elif number == 3 and isinstance(content, bytes):
            own = dict(_fields(content))
            charsmap, squeezes = bytes(own.get(2, b"")), bool(own.get(4, 1))
            others += [name for field, name in _NORMALISED_OTHERWISE.items() if not own.get(field, 1)]
    if kind not in (_UNIGRAM, _BPE) or not pieces:
        raise FolderError(f"{path} is no Unigram or BPE model of SentencePiece; download the folder again")
    if others:
        raise FolderError(f"{path} was made with another {others[0]}, which no bundle follows; add a tokenizer.json")
    return Pieces(pieces=tuple(pieces), kind=kind, charsmap=charsmap, squeezes_spaces=squeezes)


def tokenizer_of(
    pieces: Pieces, *, characters: Collection[str], special: list[str], begin: str, end: str
) -> tuple[dict[str, Any], list[str]]:
    """Return a tokenizer.json that knows `special` tokens, and its tokens by id.

    It puts `begin`, unless that is empty, before a text and `end` behind it. `characters` are read as tokens where the
    model knows none of them.
    """
    surfaces = [piece for piece, _, _ in pieces.pieces]
    known = set(surfaces)
    others = [character for character in characters if character not in known]
    surfaces += others
    own = [token for token in special if token not in surfaces]
    surfaces += own
    unknown = next((number for number, (_, _, kind) in enumerate(pieces.pieces) if kind == _UNKNOWN), 0)
    scores = [score for _, score, _ in pieces.pieces]
    scores += [min(scores) - _UNKNOWN_PENALTY] * len(others)
    usable = [kind != _CONTROL for _, _, kind in pieces.pieces] + [True] * len(others)
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(token, surfaces.index(token)) for token in sorted(special, key=surfaces.index)],
        "normalizer": _normalizer(pieces),
        "pre_tokenizer": METASPACE,
        "post_processor": _around({token: surfaces.index(token) for token in (begin, end) if token}, begin, end),
        "decoder": METASPACE,
        "model": _model(pieces.kind, surfaces, scores, usable, unknown),
    }
    return spec, surfaces


def _model(kind: int, surfaces: list[str], scores: list[float], usable: list[bool], unknown: int) -> dict[str, Any]:
    if kind == _BPE:
        return {
            "type": "BPE", "dropout": None, "unk_token": surfaces[unknown], "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": False, "ignore_merges": False,
            "vocab": {surface: number for number, surface in enumerate(surfaces)},
            "merges": _merges(surfaces[: len(scores)], scores),
        }  # fmt: skip
    lowest = min(scores, default=0.0) - 100.0
    rows = [[surface, score if use else lowest] for surface, score, use in zip(surfaces, scores, usable, strict=False)]
    rows += [[surface, lowest] for surface in surfaces[len(scores) :]]
    return {"type": "Unigram", "unk_id": unknown, "vocab": rows, "byte_fallback": False}


def _merges(surfaces: list[str], scores: list[float]) -> list[list[str]]:
    """Every way to part a piece in two pieces, those first that SentencePiece would join first: by score."""
    ranks = {surface: -score for surface, score in zip(surfaces, scores, strict=True)}
    found = []
    for surface in surfaces:
        for cut in range(1, len(surface)):
            left, right = surface[:cut], surface[cut:]
            if left in ranks and right in ranks:
                found.append((ranks[surface], ranks[left], ranks[right], left, right))
    return [[left, right] for *_, left, right in sorted(found)]


def _normalizer(pieces: Pieces) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if pieces.charsmap:
        encoded = base64.b64encode(pieces.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": encoded})
    if pieces.squeezes_spaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return {"type": "Sequence", "normalizers": steps} if steps else None


def _around(ids: dict[str, int], begin: str, end: str) -> dict[str, Any]:
    before = [{"SpecialToken": {"id": begin, "type_id": 0}}] if begin else []
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    after = {"SpecialToken": {"id": end, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [*before, first, after],
        "pair": [*before, first, second, after],
        "special_tokens": {token: {"id": token, "ids": [own], "tokens": [token]} for token, own in ids.items()},
    }


def added_token(token: str, number: int) -> dict[str, Any]:
    """A special token as a tokenizer.json has it."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, "special": True, **flags}


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a message, each with its content: a whole number, or the bytes."""
    fields: list[tuple[int, int | bytes]] = []
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind, content = tag & 7, 0
        if kind == 0:
            content, place = _varint(data, place)
            fields.append((tag >> 3, content))
            continue
        length = {1: 8, 5: 4}.get(kind, -1)
        if kind == 2:
            length, place = _varint(data, place)
        if length < 0 or place + length > len(data):
            raise ValueError("it is no protobuf message")
        fields.append((tag >> 3, data[place : place + length]))
        place += length
    return fields


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for number, byte in enumerate(data[place : place + _LONGEST_VARINT]):
        value |= (byte & 127) << 7 * number
        if byte < 128:
            return value, place + number + 1
    raise ValueError("it is no protobuf message")
