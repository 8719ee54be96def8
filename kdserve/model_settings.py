"""Settings in the manifests of students, bundles and classifiers, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from kdserve.errors import FolderError, RecipeError
from kdserve.manifest import MANIFEST_NAME, Manifest, read_manifest, verify_folder
from kdserve.toml import build, require

Family = Literal["static", "transformer", "sequence"]
SIZES = "[1, 1048576]"
"""Where numbers of tokens and dimensions lie, so that an array can be made of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """Settings of every model: `languages` are covered, `weak_languages` trained but promised less."""

    name: str
    family: Family
    max_tokens: int
    languages: tuple[str, ...]
    weak_languages: tuple[str, ...]

    def __post_init__(self) -> None:
        require(self, max_tokens=SIZES)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_manifest(cls, manifest: Manifest, folder: Path) -> Self:
        """Read the settings of a folder's manifest.

        Raises:
            FolderError: a setting is missing, has the wrong type, or is not known to this version.
        """
        try:
            settings: Self = build(cls, manifest.settings, where=f"the settings in {folder / MANIFEST_NAME}")
        except RecipeError as error:
            again = "distil it again" if manifest.kind in ("student", "sequence-student") else "export again"
            raise FolderError(f"{error}; {again}") from error
        return settings


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentSettings(ModelSettings):
    """Settings in a student's manifest; `labels` are those of a classifier, empty for an embedder.

    `table_bits` is how the token table was trained to be stored, 0 in floats. `recipe` and `accuracy` are records of
    its training, `grown` of its growth, each empty where there was none.
    """

    dim: int
    table_bits: Literal[0, 4, 8]
    labels: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    grown: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self, max_tokens=SIZES, dim=SIZES, widths=SIZES)

    @property
    def widths(self) -> tuple[int, ...]:
        """Shorter widths that the student was trained for (see kdserve.runtime.bundle)."""
        objective = self.recipe.get("objective", {})
        widths = objective.get("matryoshka", []) if isinstance(objective, dict) else None
        if not isinstance(widths, list) or any(type(width) is not int for width in widths):
            raise ValueError("recipe.objective.matryoshka must be a list of widths")
        return tuple(widths)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values, without what is empty for this student."""
        record = ModelSettings.to_json(self)
        return {name: value for name, value in record.items() if value or name not in _OPTIONAL}


_OPTIONAL = ("labels", "recipe", "accuracy", "grown")


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceSettings(ModelSettings):
    """What students that write, and their bundles, say of themselves (docs/sequence-to-sequence.md).

    `max_tokens` bounds what is read at once, `max_output_tokens` what is written. `languages` are read, `targets`
    written; none: the language of the source. `prefix` is put before each source. `source_tokens` take, by language,
    the place of a source's own language token, an output is made to start with that of `target_tokens`.
    """

    task: Literal["translate", "summarise"]
    max_output_tokens: int
    targets: tuple[str, ...] = ()
    prefix: str = ""
    source_tokens: Mapping[str, str] = field(default_factory=dict)
    target_tokens: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self, max_tokens=SIZES, max_output_tokens=SIZES)

    def shared(self) -> dict[str, Any]:
        """Return by name what a student that writes and its bundles both say."""
        return {one.name: getattr(self, one.name) for one in fields(SequenceSettings)}


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceStudentSettings(SequenceSettings):
    """What the manifest of a student that writes says beyond its files.

    `table_bits` is how the encoder's token table was trained to be stored, 0 in floats. `recipe` and `accuracy` are
    records of its training.
    """

    table_bits: Literal[0, 4, 8] = 0
    recipe: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)


def read_student_settings(folder: Path) -> StudentSettings:
    """Read what a student's manifest says, without looking at the files that it lists.

    Raises:
        FolderError: no student is there, or one whose settings do not fit.
    """
    return StudentSettings.from_manifest(read_manifest(folder, kind="student"), folder)


def verify_student(folder: Path) -> tuple[Manifest, StudentSettings]:
    """Check every file of a student's folder; return its manifest, and the settings there.

    Raises:
        FolderError: no student is there, or a damaged one, or its settings do not fit.
    """
    manifest = verify_folder(folder, kind="student")
    return manifest, StudentSettings.from_manifest(manifest, folder)
