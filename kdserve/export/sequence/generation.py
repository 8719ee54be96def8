"""How a folder says that outputs are found, as far as a bundle follows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kdserve.errors import FolderError
from kdserve.export.read.foreign import opening
from kdserve.runtime.sequence.settings import Generation

_PLAIN: Mapping[str, Any] = {
    "do_sample": False,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "diversity_penalty": 0.0,
    "sequence_bias": None,
    "guidance_scale": None,
    "constraints": None,
    "force_words_ids": None,
    "exponential_decay_length_penalty": None,
    "begin_suppress_tokens": None,
    "renormalize_logits": False,
    "stop_strings": None,
    "watermarking_config": None,
}
"""Settings that change what comes out, at the values that a bundle has; others are refused by name."""
_EARLY: Mapping[Any, Literal["false", "true", "never"]] = {
    None: "false",
    False: "false",
    True: "true",
    "never": "never",
}


def read_generation(body: Path) -> dict[str, Any]:
    """Return a folder's settings of generation, with transformers' defaults where it says nothing.

    Raises:
        FolderError: a damaged file.
    """
    with opening(body, "transformers"):
        from transformers import AutoConfig, GenerationConfig

        if (body / "generation_config.json").is_file():
            found = GenerationConfig.from_pretrained(str(body), local_files_only=True)
        else:
            config = AutoConfig.from_pretrained(str(body), local_files_only=True, trust_remote_code=False)
            found = GenerationConfig.from_model_config(config)
        settings: dict[str, Any] = found.to_dict()
    return settings


def generation_of(settings: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> tuple[Generation, list[int]]:
    """Return how a bundle finds outputs, and the tokens that it never writes.

    Raises:
        FolderError: a setting that no bundle follows, or no token to start or to end with.
    """
    for name, plain in _PLAIN.items():
        if (value := settings.get(name)) not in (None, plain):
            raise FolderError(
                f"{folder} generates with {name} = {value!r}, which no bundle follows; set it to {plain!r}"
            )
    start, ends = _id(settings, config, "decoder_start_token_id"), _id(settings, config, "eos_token_id")
    if start is None or ends is None:
        lack = "decoder_start_token_id" if start is None else "eos_token_id"
        raise FolderError(f"{folder} names no {lack}; set it in generation_config.json")
    end_ids = tuple(ends) if isinstance(ends, list) else (ends,)
    never = [*(settings.get("suppress_tokens") or ())]
    for word in settings.get("bad_words_ids") or ():
        if len(word) != 1:
            raise FolderError(
                f"{folder} generates with bad_words_ids of several tokens, which no bundle follows; drop them"
            )
        never += () if word[0] in end_ids else word  # transformers lets an end pass there
    generation = Generation(
        start_id=start,
        end_ids=end_ids,
        forced_start_id=settings.get("forced_bos_token_id"),
        forced_end_id=settings.get("forced_eos_token_id"),
        num_beams=_count(settings, "num_beams") or 1,
        length_penalty=1.0 if settings.get("length_penalty") is None else float(settings["length_penalty"]),
        early_stopping=_EARLY[settings.get("early_stopping")],
        no_repeat_ngram=_count(settings, "no_repeat_ngram_size") or 0,
        keep_numbers=bool(settings.get("keep_numbers")),
        keep_names=float(settings.get("keep_names") or 0),
        max_run=_count(settings, "max_run") or 0,
        min_tokens=_min_tokens(settings),
    )
    return generation, sorted(set(never))


def _min_tokens(settings: Mapping[str, Any]) -> int:
    """The older setting counts the start token, and does not count at all beside the newer one."""
    tokens = _count(settings, "min_new_tokens")
    return max((_count(settings, "min_length") or 0) - 1, 0) if tokens is None else tokens


def _count(settings: Mapping[str, Any], name: str) -> int | None:
    value = settings.get(name)
    if value is not None and type(value) is not int:
        raise ValueError(f"{name} is {value!r}")
    return value


def _id(settings: Mapping[str, Any], config: Mapping[str, Any], name: str) -> Any:
    found = settings.get(name)
    if found is None:
        found = config.get(name, config.get("decoder", {}).get(name))
    return found
