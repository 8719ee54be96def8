"""Cut a tokenizer.json down to some of its tokens, so that text made of these alone keeps its tokens.

- Unigram: the best cut of such a text is still there, and only worse ones are gone.
- WordPiece: the longest match that was taken is still there, and no longer one has come.
- BPE: every merge inside a kept token is kept, with its rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from itertools import pairwise
from typing import Any

from kdserve.errors import FolderError

_WORD_STARTS = ("▁", "Ġ")  # pieces by themselves where no longer one begins the word
_BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def tokens_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of a tokenizer's tokens, added ones included.

    Raises:
        FolderError: the model is none of Unigram, WordPiece and BPE.
    """
    model = spec["model"]
    if model["type"] == "Unigram":
        ids = {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    elif model["type"] in {"WordPiece", "BPE"}:
        ids = dict(model["vocab"])
    else:
        raise FolderError(f"a tokenizer of type {model['type']} cannot be trimmed; Unigram, WordPiece and BPE can")
    return ids | {token["content"]: token["id"] for token in spec["added_tokens"]}


def close_over(spec: Mapping[str, Any], wanted: Iterable[str], characters: Set[str]) -> list[str]:
    """Return the wanted tokens, those that they cannot do without, and single characters, in the order of their ids."""
    ids = tokens_of(spec)
    kept = {token for token in wanted if token in ids} | {token["content"] for token in spec["added_tokens"]}
    kept |= {*_BYTE_PIECES, *_WORD_STARTS, *_template_tokens(spec["post_processor"])} & set(ids)
    model = spec["model"]
    if model["type"] == "Unigram":
        pieces = model["vocab"]
        kept |= {token for token in ids if token in characters}
        kept |= {pieces[model["unk_id"]][0]} if model["unk_id"] is not None else set()
        kept |= {min(pieces, key=lambda pair: pair[1])[0]}  # the price of an unknown character hangs on it
    else:
        kept |= {model["unk_token"]} & set(ids)
        continuing = model.get("continuing_subword_prefix") or ""
        kept |= {token for token in ids if token.removeprefix(continuing) in characters}
    if model["type"] == "BPE":
        ranks = {_pair(merge): rank for rank, merge in enumerate(model["merges"])}
        kept |= {token for token in ids if len(token) == 1}
        kept |= {part for token in list(kept) for part in _merge_products(token, ranks, model)}
    return sorted((token for token in kept if token in ids), key=lambda token: ids[token])


def cut_vocabulary(spec: Mapping[str, Any], kept: list[str]) -> dict[str, Any]:
    """Return the tokenizer with these tokens alone, numbered in the given order."""
    numbers = {token: number for number, token in enumerate(kept)}
    model = dict(spec["model"])
    if model["type"] == "Unigram":
        scores = dict(model["vocab"])
        model["vocab"] = [[token, scores.get(token, 0.0)] for token in kept]
        if model["unk_id"] is not None:
            model["unk_id"] = numbers[spec["model"]["vocab"][model["unk_id"]][0]]
    else:
        model["vocab"] = {token: number for token, number in numbers.items() if token in model["vocab"]}
    if model["type"] == "BPE":
        pairs = [(merge, _pair(merge)) for merge in model["merges"]]
        model["merges"] = [merge for merge, pair in pairs if {*pair, "".join(pair)} <= model["vocab"].keys()]
    added = [{**token, "id": numbers[token["content"]]} for token in spec["added_tokens"]]
    return {
        **spec,
        "model": model,
        "added_tokens": sorted(added, key=lambda token: int(token["id"])),
        "post_processor": _renumber(spec["post_processor"], numbers),
        "padding": None,
        "truncation": None,
    }


def _template_tokens(post_processor: Mapping[str, Any] | None) -> list[str]:
    """Return the special tokens that a post-processor puts around a text."""
    if post_processor is None:
        return []
    if post_processor["type"] == "Sequence":
        return [token for step in post_processor["processors"] for token in _template_tokens(step)]
    named = [token for special in post_processor.get("special_tokens", {}).values() for token in special["tokens"]]
    return named + [post_processor[role][0] for role in ("sep", "cls") if role in post_processor]


def _renumber(post_processor: dict[str, Any] | None, numbers: Mapping[str, int]) -> dict[str, Any] | None:
    """Give the special tokens of a template, or of BERT's and RoBERTa's own processors, their new numbers."""
    if post_processor is None:
        return None
    if post_processor["type"] == "Sequence":
        return {**post_processor, "processors": [_renumber(step, numbers) for step in post_processor["processors"]]}
    changed = dict(post_processor)
    for role in ("sep", "cls"):
        if role in changed:
            changed[role] = [changed[role][0], numbers[changed[role][0]]]
    if "special_tokens" in changed:
        changed["special_tokens"] = {
            name: {**token, "ids": [numbers[content] for content in token["tokens"]]}
            for name, token in changed["special_tokens"].items()
        }
    return changed


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Read a merge, written as "a b" by older tokenizers and as ["a", "b"] by newer ones."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _merge_products(token: str, ranks: Mapping[tuple[str, str], int], model: Mapping[str, Any]) -> list[str]:
    """Return every token that arises while BPE builds this one from its characters."""
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise FolderError("a BPE tokenizer with word prefixes or suffixes cannot be trimmed; byte-level BPE can")
    parts = list(token)
    products = list(parts)
    while len(parts) > 1:
        pairs = [(ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(parts))]
        rank, at = min(pairs)
        if rank == len(ranks):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        products.append(parts[at])
    return products
