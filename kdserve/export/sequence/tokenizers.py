"""The tokenizers of both sides, whatever the folder calls them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdserve.errors import FolderError
from kdserve.export.read.foreign import opening
from kdserve.export.read.tokenizer import open_tokenizer, require_rows
from kdserve.export.sequence.sentencepiece import METASPACE, Pieces, added_token, read_pieces, tokenizer_of
from kdserve.json_files import read_object
from kdserve.runtime import library

_VOCABULARY, _TARGET_VOCABULARY = "vocab.json", "target_vocab.json"
_MARIAN = ("source.spm", "target.spm", _VOCABULARY)
_M2M = ("sentencepiece.bpe.model", _VOCABULARY)
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

    def unreadable(self, num_rows: int) -> set[int]:
        """The rows of a decoder's table that the target has no token for: models round their tables up."""
        added = (token["id"] for token in self.target["added_tokens"])
        return set(range(num_rows)) - {*self.target["model"]["vocab"].values(), *added}


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
                return _from_pieces(folder, names[:-1], pad_id=pad_id, end_id=end_id)
    spec = _open(folder)
    return PairTokenizers(source=spec, target=as_words(spec), pad_id=_pad_of(spec, pad_id))


def with_rows(tokenizers: PairTokenizers, num_rows: int, folder: Path) -> PairTokenizers:
    """Leave out the source's added tokens that have no row in the encoder's table, as <mask> in BART's summarisers.

    They are read as the text that they are; what is masked may be any token.

    Raises:
        FolderError: another token has none.
    """
    if tokenizers.source_ids:
        lowest, highest = min(tokenizers.source_ids), max(tokenizers.source_ids)
        if not 0 <= lowest <= highest < num_rows:
            path = folder / _VOCABULARY
            raise FolderError(f"{path} has ids {lowest} to {highest}, the table {num_rows} rows; download it again")
        return tokenizers
    source, model = tokenizers.source, tokenizers.source["model"]
    gone = {token["content"] for token in source["added_tokens"] if token["id"] >= num_rows}
    if gone:
        vocabulary = model["vocab"]  # of a Unigram a list, whose places are the ids
        kept = (
            {token: number for token, number in vocabulary.items() if token not in gone}
            if isinstance(vocabulary, dict)
            else [row for number, row in enumerate(vocabulary) if number < num_rows or row[0] not in gone]
        )
        added = [token for token in source["added_tokens"] if token["content"] not in gone]
        source = {**source, "added_tokens": added, "model": {**model, "vocab": kept}}
    require_rows(source, num_rows, folder)
    return replace(tokenizers, source=source, pad_id=tokenizers.pad_id if tokenizers.pad_id < num_rows else 0)


def as_words(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tokenizer whose model is a plain list of its tokens, which opens at once: enough to read ids back.

    Raises:
        FolderError: two tokens have one id.
    """
    vocabulary = library.open_tokenizer(json.dumps(spec)).get_vocab(with_added_tokens=False)
    tokens = {number: token for token, number in vocabulary.items()}
    for added in spec["added_tokens"]:  # whose ids are counted, not read, where the vocabulary's have holes
        if (other := tokens.get(added["id"], added["content"])) != added["content"]:
            raise FolderError(
                f"the target's tokens {other!r} and {added['content']!r} have one id, {added['id']}, as the ids of its "
                "vocabulary have holes; number them without"
            )
    return _words(vocabulary, spec["added_tokens"], spec["decoder"] or {"type": "Fuse"})


def _words(vocabulary: Mapping[str, int], added: list[dict[str, Any]], decoder: dict[str, Any]) -> dict[str, Any]:
    every = {**vocabulary, **{token["content"]: token["id"] for token in added}}  # else added ones are counted anew
    nothing = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor"))
    in_order = dict(sorted(every.items(), key=lambda item: item[1]))
    model = {"type": "WordLevel", "vocab": in_order, "unk_token": ""}
    return {"version": "1.0", **nothing, "added_tokens": added, "decoder": decoder, "model": model}


def _open(folder: Path) -> dict[str, Any]:
    return open_tokenizer(folder, lowercase=False, arguments={}).spec


def _pad_of(spec: Mapping[str, Any], pad_id: int) -> int:
    """The encoder's padding, whose id may be another than the decoder's: what is masked may be any token."""
    ids = {token["content"]: token["id"] for token in spec["added_tokens"]}
    return pad_id if pad_id in ids.values() else ids.get("<pad>", ids.get("[PAD]", 0))


def _from_pieces(folder: Path, models: Sequence[str], *, pad_id: int, end_id: int) -> PairTokenizers:
    """Convert a SentencePiece model of the source side; ids are its own, and looked up by surface in `vocab.json`."""
    joint, written = _vocabularies(folder)
    names = {number: token for token, number in written.items()}
    end, pad = names.get(end_id, ""), names.get(pad_id, "")
    if not {end, pad} <= joint.keys():
        raise FolderError(f"{folder / _VOCABULARY} is no vocabulary with padding and an end; download the folder again")
    pieces, *_ = [_open_pieces(folder / name) for name in models]  # what reads ids back knows no other kinds either
    languages = [token for token in joint if _LANGUAGE.fullmatch(token)]
    special = list(dict.fromkeys([end, pad, *languages]))
    begin = languages[0] if models[0] == _M2M[0] and languages else ""
    characters = [token for token in joint if len(token) == 1]  # what the other side alone knows is looked up too
    spec, surfaces = tokenizer_of(pieces, characters=characters, special=special, begin=begin, end=end)
    known = [token for token in dict.fromkeys((*special, "<unk>", "<s>")) if token in written]
    added = sorted((added_token(token, written[token]) for token in known), key=lambda token: token["id"])
    source_ids = tuple(joint.get(surface, joint.get("<unk>", joint[end])) for surface in surfaces)
    return PairTokenizers(
        source=spec,
        target=_words(written, added, METASPACE),
        pad_id=surfaces.index(pad),
        source_ids=source_ids,
    )


def _open_pieces(path: Path) -> Pieces:
    with opening(path, "sentencepiece"):
        return read_pieces(path)


def _vocabularies(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """The ids of what is read, and of what is written: the same, but for a Marian that has each apart."""
    joint = read_object(folder / _VOCABULARY) | _added_languages(folder)
    settings = folder / "tokenizer_config.json"
    is_apart = settings.is_file() and read_object(settings).get("separate_vocabs")
    written = read_object(folder / _TARGET_VOCABULARY) if is_apart else joint
    for number in (*joint.values(), *written.values()):
        if type(number) is not int:
            raise FolderError(f"{folder / _VOCABULARY} gives the id {number!r}; download the folder again")
    return joint, written


def _added_languages(folder: Path) -> dict[str, int]:
    """M2M100's language tokens stand behind its vocabulary, in an order that only its code knows."""
    if (folder / _MARIAN[0]).is_file():
        return {}
    with opening(folder, "transformers"):
        from transformers import AutoTokenizer

        opened = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return {token: int(opened.convert_tokens_to_ids(token)) for token in opened.lang_code_to_token.values()}
