"""The bundle folder: what its manifest says and where its files are, verified before anything is parsed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdserve.errors import FolderError
from kdserve.manifest import verify_folder
from kdserve.model_settings import SIZES, ModelSettings
from kdserve.toml import require

MODEL_NAME = "model.onnx"
PROMPTS_NAME = "config_sentence_transformers.json"
TOKENIZER_NAME = "tokenizer.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Words put before a text, by its role."""

    query: str = ""
    document: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleSettings(ModelSettings):
    """Settings in a bundle's manifest, beside its files.

    `precision` is how the weights are stored, `fidelity` the record of the gate that the export passed. `widths` are
    shorter ones that the student was trained for (Matryoshka, arXiv:2205.13147): so many first numbers of a vector,
    made a unit vector again, keep its similarities.
    """

    precision: str
    dim: int
    prompts: Prompts
    widths: tuple[int, ...] = ()
    fidelity: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self, max_tokens=SIZES, dim=SIZES, widths=SIZES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A verified bundle folder. `parents` are the fingerprints of what it was made from: "student", "teacher"."""

    folder: Path
    fingerprint: str
    settings: BundleSettings
    parents: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        """The ONNX graph."""
        return self.folder / MODEL_NAME

    @property
    def tokenizer(self) -> Path:
        """The tokenizer, in the JSON form of the tokenizers library."""
        return self.folder / TOKENIZER_NAME


def open_bundle(folder: Path) -> Bundle:
    """Verify every file of a bundle and read what its manifest says.

    Raises:
        FolderError: a file is missing, damaged, a link or not in the manifest, or the folder is no bundle.
    """
    manifest = verify_folder(folder, kind="bundle", needs=(MODEL_NAME, TOKENIZER_NAME, PROMPTS_NAME))
    settings = BundleSettings.from_manifest(manifest, folder)
    if _read_prompts(folder / PROMPTS_NAME) != settings.prompts:  # the checksums cover files, not settings
        raise FolderError(f"{folder / PROMPTS_NAME} has other prompts than the manifest; export the bundle again")
    return Bundle(folder=folder, fingerprint=manifest.fingerprint, settings=settings, parents=manifest.parents)


def _read_prompts(path: Path) -> Prompts:
    try:
        prompts = json.loads(path.read_text(encoding="utf-8"))["prompts"]
        return Prompts(query=prompts["query"], document=prompts["document"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FolderError(f"{path} is damaged ({error}); export the bundle again") from error
