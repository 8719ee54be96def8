"""Settings of a transformer for sentence-transformers, in a file with one of seven names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdserve.json_files import read_object

_FAMILIES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_NAMES = tuple(f"sentence_{family}_config.json" for family in _FAMILIES)
"""In the order in which it looks for them (sentence_transformers/base/modules/transformer.py); the first one counts."""
_OTHER_WORDS = {"tokenizer_args": "processor_kwargs", "model_args": "model_kwargs", "config_args": "config_kwargs"}
_PLAIN: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
}
_ANY = {"max_seq_length", "do_lower_case", "processor_kwargs", "unpad_inputs", *_PLAIN}


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerSettings:
    """A limit in tokens, whether text is lower-cased first, and arguments of the tokenizer.

    `refusal` names a setting that no bundle follows, or is empty.
    """

    max_seq_length: int | None
    lowercase: bool
    tokenizer_arguments: Mapping[str, Any]
    refusal: str


def read_transformer_settings(body: Path) -> TransformerSettings:
    """Read the settings of a transformer's folder; there may be none. Raises FolderError for a damaged file."""
    records = (read_object(body / name) for name in _NAMES if (body / name).is_file())
    record = next((record for record in records if record), {})
    record = {_OTHER_WORDS.get(name, name): value for name, value in record.items()}
    others = {name for name, value in record.items() if name not in _ANY and value}
    others |= {name for name, value in _PLAIN.items() if record.get(name, value) != value}
    arguments = {**(record.get("processor_kwargs") or {})}
    arguments.pop("trust_remote_code", None)
    limit = record.get("max_seq_length")
    if limit is not None:
        arguments.setdefault("model_max_length", limit)
    return TransformerSettings(
        max_seq_length=arguments.get("model_max_length"),
        lowercase=bool(record.get("do_lower_case")),
        tokenizer_arguments=arguments,
        refusal=f"a transformer with the setting {', '.join(sorted(others))}" if others else "",
    )
