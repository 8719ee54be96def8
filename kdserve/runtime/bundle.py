"""The bundle folder: what its manifest says and where its files are, verified before anything is parsed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdserve.errors import FolderError
from kdserve.manifest import MANIFEST_NAME, Manifest, verify_folder

MODEL_NAME = "model.onnx"
PROMPTS_NAME = "config_sentence_transformers.json"
TOKENIZER_NAME = "tokenizer.json"
_LARGEST = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """What is put before a text, by its role."""

    query: str = ""
    document: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleSettings:
    """What a bundle's manifest says beyond its files.

    `precision` is how the weights are stored, `fidelity` the record of the gate that the export passed. `widths` are
    shorter ones that the student was trained for (Matryoshka, arXiv:2205.13147): so many first numbers of a vector,
    made a unit vector again, keep its similarities.
    """

    name: str
    family: str
    precision: str
    dim: int
    max_tokens: int
    languages: tuple[str, ...] = ()
    weak_languages: tuple[str, ...] = ()
    prompts: Prompts = field(default_factory=Prompts)
    widths: tuple[int, ...] = ()
    fidelity: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_manifest(cls, manifest: Manifest, folder: Path) -> BundleSettings:
        """Read the settings of a bundle's manifest.

        Raises:
            FolderError: a setting is missing, has the wrong type, or is not known to this version.
        """
        settings = dict(manifest.settings)
        try:
            settings["prompts"] = Prompts(**settings["prompts"])
            for name in ("languages", "weak_languages"):
                settings[name] = tuple(settings[name])
            settings["widths"] = tuple(settings.get("widths", ()))
            parsed = cls(**settings)
            for size in (parsed.dim, *parsed.widths):
                require_size("dim, widths", size)
            require_size("max_tokens", parsed.max_tokens)
            require_strings("name, family, precision", (parsed.name, parsed.family, parsed.precision))
            require_strings("languages", (*parsed.languages, *parsed.weak_languages))
            require_strings("prompts", (parsed.prompts.query, parsed.prompts.document))
        except (KeyError, TypeError) as error:
            raise FolderError(f"the settings in {folder / MANIFEST_NAME} do not fit ({error}); export again") from error
        return parsed


def require_size(name: str, value: object) -> None:
    """Raise TypeError unless a setting is a positive integer that an array can be made of."""
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise TypeError(f"{name} must be a positive integer of at most {_LARGEST}")


def require_strings(name: str, values: Sequence[object]) -> None:
    """Raise TypeError unless all values of a setting are strings."""
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} must be strings")


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
    manifest = verify_folder(folder, kind="bundle")
    for name in (MODEL_NAME, TOKENIZER_NAME, PROMPTS_NAME):
        if name not in manifest.files:
            raise FolderError(f"{folder} lists no {name} in its manifest; export the bundle again")
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
