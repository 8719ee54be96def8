"""Read a student that writes, or a plain transformers folder of its kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kdserve.errors import FolderError
from kdserve.export.read.foreign import read_config
from kdserve.export.read.tensors import read_tensors
from kdserve.export.sequence.family import SEQUENCE_FAMILIES, read_sequence, sequence_without_graph
from kdserve.export.sequence.generation import generation_of, read_generation
from kdserve.export.sequence.plain import begin_with, with_language_tokens
from kdserve.export.sequence.tokenizers import PairTokenizers, read_tokenizers, with_rows
from kdserve.export.sequence.weights import SequenceWeights
from kdserve.json_files import read_object
from kdserve.manifest import MANIFEST_NAME, Manifest, kind_of, record_files, verify_folder
from kdserve.model_settings import SequenceSettings, SequenceStudentSettings
from kdserve.runtime.sequence.settings import Generation

KIND: Literal["sequence-student"] = "sequence-student"
_UNLIMITED = 1 << 20
_DEFAULT_TOKENS = 512
_TOLD_BY_TOKENS = ("mbart", "m2m_100")
_DAMAGE = (IndexError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceStudent:
    """A folder, read. `never` are the tokens that it is not to write."""

    folder: Path
    fingerprint: str
    parents: Mapping[str, str]
    settings: SequenceSettings
    table_bits: int
    weights: SequenceWeights
    tokenizers: PairTokenizers
    generation: Generation
    never: tuple[int, ...]


def is_sequence(folder: Path) -> bool:
    """Say whether a folder holds a student that writes: by its manifest, or its model_type where it has none."""
    if (folder / MANIFEST_NAME).is_file():
        return kind_of(folder) == KIND
    path = folder / "config.json"
    if not path.is_file() or (folder / "modules.json").is_file():
        return False
    return str(read_object(path).get("model_type")) in SEQUENCE_FAMILIES


def read_sequence_student(folder: Path, *, plain: SequenceSettings) -> SequenceStudent:
    """Read a student after checking it against its manifest, or a plain folder, of which `plain` says what it does not.

    Raises:
        FolderError: damaged, no such folder, or of a kind that has no graph.
    """
    manifest, settings = _verify(folder, plain)
    try:
        return _read(folder, manifest, settings)
    except KeyError as error:
        raise FolderError(f"{folder} lacks {error}; distil or download it again") from error
    except _DAMAGE as error:
        raise FolderError(f"{folder} does not fit together ({error}); distil or download it again") from error


def _verify(folder: Path, plain: SequenceSettings) -> tuple[Manifest, SequenceSettings]:
    if (folder / MANIFEST_NAME).is_file():
        manifest = verify_folder(folder, kind=KIND)
        return manifest, SequenceStudentSettings.from_manifest(manifest, folder)
    return Manifest(kind=KIND, made_by="transformers", files=record_files(folder)), plain


def _read(folder: Path, manifest: Manifest, settings: SequenceSettings) -> SequenceStudent:
    config = read_config(folder)
    if no_graph := sequence_without_graph(config):
        raise FolderError(
            f"{folder} cannot be exported: {no_graph} has no graph here; Marian, BART, mBART, M2M100, T5, mT5 and "
            f"encoder-decoders of the BERT kind have one"
        )
    generation, never = generation_of(read_generation(folder), config, folder)
    weights = read_sequence(read_tensors(folder), config, start_id=generation.start_id)
    if not weights.decoder.layers:
        raise FolderError(f"{folder} has a decoder without layers; distil or download it again")
    _require_tokens(generation, never, len(weights.decoder.output), folder)
    pad_id = config.get("pad_token_id")
    tokenizers = read_tokenizers(folder, pad_id=0 if pad_id is None else pad_id, end_id=generation.end_ids[0])
    if config["model_type"] in _TOLD_BY_TOKENS:
        settings = with_language_tokens(settings, tokenizers)
        token = next(iter(settings.source_tokens.values()))
        tokenizers = replace(tokenizers, source=begin_with(tokenizers.source, token, tokenizers.languages))
    tokenizers = with_rows(tokenizers, len(weights.encoder.table), folder)
    own, rows = settings, (weights.encoder.positions, weights.decoder.positions)
    limits = [_UNLIMITED if table is None else len(table) for table in rows]
    return SequenceStudent(
        folder=folder,
        fingerprint=manifest.fingerprint,
        parents=manifest.parents,
        settings=replace(
            own,
            max_tokens=min(own.max_tokens, limits[0]),
            max_output_tokens=min(own.max_output_tokens, limits[1]),
        ),
        table_bits=own.table_bits if isinstance(own, SequenceStudentSettings) else 0,
        weights=weights,
        tokenizers=tokenizers,
        generation=generation,
        never=tuple(sorted({*never, *tokenizers.unreadable(len(weights.decoder.output))})),
    )


def _require_tokens(generation: Generation, never: Sequence[int], num_rows: int, folder: Path) -> None:
    """Refuse settings that name a token which the decoder has no row for."""
    forced = (generation.forced_start_id, generation.forced_end_id)
    named = (generation.start_id, *generation.end_ids, *(token for token in forced if token is not None), *never)
    for token in named:
        if type(token) is not int or not 0 <= token < num_rows:
            raise FolderError(
                f"{folder} generates with token {token!r}, which its table of {num_rows} rows has not; mend "
                "generation_config.json"
            )
