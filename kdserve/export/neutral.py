"""Take off a model's vectors what tells languages apart, in closed form: one dense layer behind its pooling, which a
static model's table takes in.

A multilingual teacher's vectors lie together by language, so that a question finds wrong answers in its own language
before right ones in others. Most of that is a shift, the same for all texts of a language: what translations differ by
from their sources, on average. The main directions of these shifts are projected out (LIR, Yang et al. 2021,
arXiv:2109.04727, who take them of each language's vectors).

Letters: L languages, D width
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from kdserve.datatypes import Embedder, Embeddings, Progress, no_progress
from kdserve.errors import DataError, FolderError
from kdserve.export.copies import describe_copy, replace_weights, require_apart, staged_copy
from kdserve.export.read.modules import read_truncate_dim
from kdserve.export.read.static import read_table
from kdserve.export.read.student import StudentFolder, read_student
from kdserve.export.read.weights import StaticWeights
from kdserve.json_files import read_json, read_object
from kdserve.lines import read_lines
from kdserve.manifest import read_manifest
from kdserve.modules import MODULES_NAME, Module, read_modules
from kdserve.runtime.bundle import PROMPTS_NAME

Pairs = Mapping[str, Sequence[tuple[str, str]]]
"""By language: texts with what they say in the source language."""
_LEAST = 16
_TYPES = "sentence_transformers.models."


@dataclass(frozen=True, kw_only=True, slots=True)
class NeutralReport:
    """Length of the mean shift of a language before and after, as a share of a vector's length; by language."""

    directions: int
    before: Mapping[str, float]
    after: Mapping[str, float]


def neutralise(
    model: Path, out: Path, *, embedder: Embedder, pairs: Pairs, directions: int, progress: Progress = no_progress
) -> NeutralReport:
    """Write `model` to `out` with a layer that projects out `directions` of its languages' shifts.

    `embedder` is the model, opened, or its bundle, which is quicker.

    Raises:
        FolderError: `model` is no sentence-transformers folder that ends behind its pooling, a dense layer or at unit
            length, or `out` lies inside it.
        DataError: a language has too few pairs, or the languages' shifts have fewer directions.
    """
    require_apart(model, out)
    student = read_student(model)
    modules = _require_vectors(student)
    shifts = measure_shifts(embedder, pairs, progress=progress)
    stacked = np.concatenate(list(shifts.values()))  # (2 L, D)
    most = min(int(np.linalg.matrix_rank(stacked)), stacked.shape[1] - 1)
    if directions > most:
        raise DataError(
            f"the shifts of {len(shifts)} languages have {most} directions, not {directions}; ask for fewer, or give "
            "pairs of more languages"
        )
    main = np.linalg.svd(stacked, full_matrices=False)[2][:directions].astype(np.float64)
    kept_DD = np.eye(stacked.shape[1]) - main.T @ main
    with staged_copy(model, out) as folder:
        if isinstance(student.weights, StaticWeights):  # the mean of rows so changed is the mean so changed
            body, table = folder / student.body.relative_to(model), read_table(student.body)
            replace_weights(body, {"embedding.weight": table @ kept_DD.astype(np.float32)})
        else:
            _add_layer(folder, kept_DD.astype(np.float32), number=len(modules))
        languages = (*student.languages, *student.weak_languages) or tuple(pairs)
        name = out.resolve().name
        describe_copy(student, folder, name=name, parent="unshifted", languages=languages, dim=embedder.dim)
    mean = {language: shift.mean(axis=0) for language, shift in shifts.items()}
    return NeutralReport(
        directions=directions,
        before={language: round(float(np.linalg.norm(shift)), 4) for language, shift in mean.items()},
        after={language: round(float(np.linalg.norm(kept_DD @ shift)), 4) for language, shift in mean.items()},
    )


def require_bundle_of(bundle: Path, model: Path) -> None:
    """Refuse a bundle that was made from something else than `model`.

    Raises:
        FolderError: it was, or one of them is damaged.
    """
    if read_manifest(bundle, kind="bundle").parents.get("student") != read_student(model).fingerprint:
        raise FolderError(f"{bundle} was not exported from {model}; leave out --bundle, or export that model first")


def measure_shifts(embedder: Embedder, pairs: Pairs, *, progress: Progress = no_progress) -> dict[str, Embeddings]:
    """Return each language's shifts (2, D): of documents and of queries."""
    shifts = {}
    for done, (language, texts) in enumerate(pairs.items()):
        progress(f"embed {language}", done, len(pairs))
        if len(texts) < _LEAST:
            raise DataError(f"{language} has {len(texts)} pairs; give at least {_LEAST}")
        own, sources = zip(*texts, strict=True)
        roles = (embedder.encode_document, embedder.encode_query)
        shifts[language] = np.stack([encode(own).mean(axis=0) - encode(sources).mean(axis=0) for encode in roles])
    progress("embed", len(pairs), len(pairs))
    return shifts


def read_pairs(path: Path, *, most: int) -> dict[str, list[tuple[str, str]]]:
    """Read `language<TAB>text<TAB>source` lines, the first `most` of each language.

    Raises:
        DataError: the file is missing, has other lines or is empty.
    """
    pairs: dict[str, list[tuple[str, str]]] = {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != 3 or not all(cell.strip() for cell in cells):
            raise DataError(f"{path}, line {number}: {len(cells)} cells; give `language<TAB>text<TAB>source` lines")
        own = pairs.setdefault(cells[0], [])
        if len(own) < most:
            own.append((cells[1], cells[2]))
    if not pairs:
        raise DataError(f"{path} is empty; give `language<TAB>text<TAB>source` lines")
    return pairs


def _require_vectors(student: StudentFolder) -> list[Module]:
    """Return the modules of a model whose vectors a layer behind them can change."""
    modules, path = read_modules(student.folder), student.folder / PROMPTS_NAME
    if student.labels:
        raise FolderError(f"{student.folder} is a classifier; only what gives vectors can be made neutral")
    if modules[-1].kind not in ("Pooling", "Dense", "Normalize", "StaticEmbedding"):
        raise FolderError(f"{student.folder} ends with a module {modules[-1].kind}; only vectors can be made neutral")
    if path.is_file() and read_truncate_dim(read_object(path)):
        raise FolderError(f"{path} has a truncate_dim, which cuts vectors behind all layers; take it out first")
    return modules


def _add_layer(folder: Path, weight_DD: npt.NDArray[np.float32], *, number: int) -> None:
    """Append the dense layer and Normalize to the folder's modules."""
    records = read_json(folder / MODULES_NAME)
    dense, last = f"{number}_Dense", f"{number + 1}_Normalize"
    for name in (dense, last):
        (folder / name).mkdir()
        kind = _TYPES + name.partition("_")[2]
        records.append({"idx": len(records), "name": str(len(records)), "path": name, "type": kind})
    save_file({"linear.weight": weight_DD}, folder / dense / "model.safetensors", metadata={"format": "pt"})
    width, activation = len(weight_DD), "torch.nn.modules.linear.Identity"
    settings = {"in_features": width, "out_features": width, "bias": False, "activation_function": activation}
    (folder / dense / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / MODULES_NAME).write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
