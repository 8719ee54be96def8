"""What a folder without a manifest does not say of itself, and what its tokens say instead."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdserve.errors import FolderError
from kdserve.export.sequence.tokenizers import PairTokenizers
from kdserve.model_settings import SequenceSettings


def with_language_tokens(settings: SequenceSettings, tokenizers: PairTokenizers) -> SequenceSettings:
    """Find the tokens of the languages of an mBART, M2M100 or NLLB: `de_DE`, `__de__` or `deu_Latn` for its own code.

    Raises:
        FolderError: a language has none, or none is read.
    """
    names = [token["content"] for token in tokenizers.source["added_tokens"]]
    source = settings.source_tokens or _tokens((*settings.languages, *settings.weak_languages), names)
    if not source:
        raise FolderError("a student that is told languages by tokens must say which it reads; give --languages")
    return replace(
        settings,
        source_tokens=source,
        target_tokens=settings.target_tokens or _tokens(settings.targets, names),
    )


def begin_with(spec: Mapping[str, Any], token: str, others: Sequence[str]) -> dict[str, Any]:
    """Put a language's token where a tokenizer puts another language's, as transformers does for `src_lang`.

    Raises:
        FolderError: it puts none anywhere.
    """
    processor = spec["post_processor"]
    ids = {added["content"]: added["id"] for added in spec["added_tokens"]}
    for old in set((processor or {}).get("special_tokens", ())) & set(others) - {token}:
        template = processor["special_tokens"]
        rest = {name: value for name, value in template.items() if name != old}
        own = {token: {"id": token, "ids": [ids[token]], "tokens": [token]}}
        single, pair = (
            json.loads(json.dumps(processor[part]).replace(json.dumps(old), json.dumps(token)))
            for part in ("single", "pair")
        )
        processor = {**processor, "single": single, "pair": pair, "special_tokens": rest | own}
    if token not in (processor or {}).get("special_tokens", ()):
        raise FolderError(f"the tokenizer puts no token of a language, as {token}, beside a text; mend tokenizer.json")
    return {**spec, "post_processor": processor}


def _tokens(languages: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    found = {}
    for code in languages:
        fitting = [name for name in names if name in (code, f"__{code}__") or name.startswith(f"{code}_")]
        if not fitting:
            raise FolderError(f"there is no token of the language {code!r}; name languages by their tokens: deu_Latn")
        found[code] = fitting[0]
    return found
