"""What a translator's bundle says beyond its files: how its outputs are found, and what it may write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdserve.manifest import verify_folder
from kdserve.model_settings import SequenceSettings
from kdserve.toml import require

ENCODER_NAME = "encoder.onnx"
DECODER_NAME = "decoder.onnx"
WEIGHTS_NAME = "weights.bin"
SOURCE_NAME = "source_tokenizer.json"
TARGET_NAME = "target_tokenizer.json"
_IDS = "[0, 16777216]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """How an output is found; the settings are transformers' own, as is what they do.

    An output starts with `start_id`, which is not part of it, then with `forced_start_id` where there is one, and ends
    before one of `end_ids`; at its limit comes `forced_end_id`. With one beam the likeliest token is taken each time,
    with more, sums of log-probabilities divided by length ** `length_penalty` decide among outputs. No run of
    `no_repeat_ngram` tokens comes twice, 0 for no such rule; an output has `min_tokens` at least. Three settings are
    not transformers': with `keep_numbers`, what has numbers is written without others
    (`kdserve.runtime.sequence.numbers`); names that went wrong are written as in the source where they resemble its own
    by `keep_names` at least, 0 for no such rule (`kdserve.runtime.sequence.names`); and no token but a digit stands
    more than `max_run` times in a row, 0 for any.
    """

    start_id: int
    end_ids: tuple[int, ...]
    forced_start_id: int | None = None
    forced_end_id: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: Literal["false", "true", "never"] = "false"
    no_repeat_ngram: int = 0
    min_tokens: int = 0
    keep_numbers: bool = False
    keep_names: float = 0.0
    max_run: int = 0

    def __post_init__(self) -> None:
        require(
            self, start_id=_IDS, end_ids=_IDS, num_beams="[1, 64]", no_repeat_ngram=_IDS, min_tokens=_IDS, max_run=_IDS
        )
        require(self, length_penalty="[-10, 10]", keep_names="[0, 1]")
        for name in ("forced_start_id", "forced_end_id"):
            if getattr(self, name) is not None:
                require(self, **{name: _IDS})
        if not self.end_ids:
            raise ValueError("end_ids is empty; an output must be able to end")


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslatorSettings(SequenceSettings):
    """What a translator's manifest says; `fidelity` is the record of the gate that its export passed."""

    precision: str
    generation: Generation
    fidelity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslatorBundle:
    """A verified bundle folder; `parents` are the fingerprints of what it was made from."""

    folder: Path
    fingerprint: str
    settings: TranslatorSettings
    parents: Mapping[str, str] = field(default_factory=dict)


def open_translator_bundle(folder: Path) -> TranslatorBundle:
    """Verify every file of a bundle and read what its manifest says.

    Raises:
        FolderError: a file is missing, damaged, a link or not in the manifest, or the folder is no translator.
    """
    names = (ENCODER_NAME, DECODER_NAME, WEIGHTS_NAME, SOURCE_NAME, TARGET_NAME)
    manifest = verify_folder(folder, kind="translator", needs=names)
    settings = TranslatorSettings.from_manifest(manifest, folder)
    return TranslatorBundle(
        folder=folder, fingerprint=manifest.fingerprint, settings=settings, parents=manifest.parents
    )
