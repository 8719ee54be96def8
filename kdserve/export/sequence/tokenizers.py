"""The tokenizers of both sides, whatever the folder calls them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdserve.errors import FolderError
from kdserve.export.read.foreign import opening
from kdserve.export.read.tokenizer import open_tokenizer
from kdserve.export.sequence.sentencepiece import METASPACE, added_token, read_pieces, tokenizer_of
from kdserve.json_files import read_object
from kdserve.runtime import library

_MARIAN = ("source.spm", "target.spm", "vocab.json")
_M2M = ("sentencepiece.bpe.model", "vocab.json")
_LANGUAGE = re.compile(r">>.+<<|__.+__|[a-z]{2,3}_[A-Z][A-Za-z]+")
"""How Marian, M2M100, mBART and NLLB write the tokens of languages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTokenizers:
    """Both sides as tokenizer.json: the source's reads, the target's is only read back.

    `source_ids` are the rows of the table that the source's ids stand for, empty where they are the rows themselves.
    """

    source: dict[str, Any]
    target: dict[str, Any]
    pad_id: int
    source_ids: tuple[int, ...] = ()

    @property
    def languages(self) -> list[str]:
        """The tokens of languages that the source knows."""
        return [token["content"] for token in self.source["added_tokens"] if _LANGUAGE.fullmatch(token["content"])]


def read_tokenizers(folder: Path, *, pad_id: int, end_id: int) -> PairTokenizers:
    """Read a folder with `source/` and `target/`, Marian's or M2M100's SentencePiece models, or one tokenizer for both.

    Raises:
        FolderError: there is none, or one that is damaged or runs in Python only.
    """
    if (folder / "source").is_dir() and (folder / "target").is_dir():
        source, target = _open(folder / "source"), _open(folder / "target")
        return PairTokenizers(source=source, target=as_words(target), pad_id=_pad_of(source, pad_id))
    if not (folder / "tokenizer.json").is_file():
        for names in (_MARIAN, _M2M):
            if all((folder / name).is_file() for name in names):
                return _from_pieces(folder, names[0], pad_id=pad_id, end_id=end_id)
    spec = _open(folder)
    return PairTokenizers(source=spec, target=as_words(spec), pad_id=_pad_of(spec, pad_id))


def as_words(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tokenizer whose model is a plain list of its tokens, which opens at once: enough to read ids back."""
    opened = library.open_tokenizer(json.dumps(spec))
    return _words(opened.get_vocab(with_added_tokens=False), spec["added_tokens"], spec["decoder"] or {"type": "Fuse"})


def _words(vocabulary: Mapping[str, int], added: list[dict[str, Any]], decoder: dict[str, Any]) -> dict[str, Any]:
    nothing = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor"))
    in_order = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    model = {"type": "WordLevel", "vocab": in_order, "unk_token": ""}
    return {"version": "1.0", **nothing, "added_tokens": added, "decoder": decoder, "model": model}


def _open(folder: Path) -> dict[str, Any]:
    return open_tokenizer(folder, lowercase=False, arguments={}).spec


def _pad_of(spec: Mapping[str, Any], pad_id: int) -> int:
    """The encoder's padding, whose id may be another than the decoder's: what is masked may be any token."""
    ids = {token["content"]: token["id"] for token in spec["added_tokens"]}
    return pad_id if pad_id in ids.values() else ids.get("<pad>", ids.get("[PAD]", 0))


def _from_pieces(folder: Path, source: str, *, pad_id: int, end_id: int) -> PairTokenizers:
    """Convert a SentencePiece model of the source side; ids are its own, and looked up by surface in `vocab.json`."""
    path = folder / "vocab.json"
    joint = read_object(path) | _added_languages(folder)
    if not all(type(number) is int for number in joint.values()) or not {pad_id, end_id} <= set(joint.values()):
        raise FolderError(f"{path} is no vocabulary with padding and an end; download the folder again")
    names = {number: token for token, number in joint.items()}
    with opening(folder / source, "sentencepiece"):
        pieces = read_pieces(folder / source)
    languages = [token for token in joint if _LANGUAGE.fullmatch(token)]
    special = list(dict.fromkeys([names[end_id], names[pad_id], *languages]))
    begin = languages[0] if source == _M2M[0] and languages else ""
    characters = [token for token in joint if len(token) == 1]  # what the other side alone knows is looked up too
    spec, surfaces = tokenizer_of(pieces, characters=characters, special=special, begin=begin, end=names[end_id])
    added = [added_token(token, joint[token]) for token in dict.fromkeys((*special, "<unk>", "<s>")) if token in joint]
    target = _words(joint, sorted(added, key=lambda token: token["id"]), METASPACE)
    source_ids = tuple(joint.get(surface, joint.get("<unk>", end_id)) for surface in surfaces)
    return PairTokenizers(source=spec, target=target, pad_id=surfaces.index(names[pad_id]), source_ids=source_ids)


def _added_languages(folder: Path) -> dict[str, int]:
    """M2M100's language tokens stand behind its vocabulary, in an order that only its code knows."""
    if (folder / _MARIAN[0]).is_file():
        return {}
    with opening(folder, "transformers"):
        from transformers import AutoTokenizer

        opened = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return {token: int(opened.convert_tokens_to_ids(token)) for token in opened.lang_code_to_token.values()}
