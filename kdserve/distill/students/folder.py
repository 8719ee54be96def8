"""Open a student's folder again: to train on, to grow it, or to let it teach."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdserve.distill.data.vocabulary import read_own_vocabulary
from kdserve.distill.students.bodies import ready_for_training, require_positions
from kdserve.distill.students.embedder import StaticStudent, Student, TransformerStudent
from kdserve.errors import FolderError
from kdserve.json_files import read_object
from kdserve.manifest import read_manifest
from kdserve.model_settings import verify_student
from kdserve.modules import read_modules
from kdserve.quiet import quiet_transformers
from kdserve.recipe import Recipe, StudentRecipe
from kdserve.runtime.bundle import PROMPTS_NAME


def parent_students(recipe: Recipe) -> dict[str, str]:
    """Return the fingerprints of the students that a recipe starts from ("student") and is guided by ("guide").

    Raises:
        FolderError: no student is there.
    """
    named = {"student": recipe.student.start, "guide": recipe.guide.student}
    return {
        role: read_manifest(Path(recipe.data_dir) / folder, kind="student").fingerprint
        for role, folder in named.items()
        if folder
    }


def require_trainable(recipe: Recipe) -> None:
    """Find out before minutes of reading that a student to start from, or a guide, cannot be used.

    Raises:
        FolderError: it is not there, or the one to start from has the vocabulary or the modules of others.
    """
    parent_students(recipe)
    if recipe.student.start:
        require_start(Path(recipe.data_dir) / recipe.student.start)


def require_start(folder: Path) -> None:
    """Refuse a student's folder with the vocabulary or the modules of others, from which no student can start.

    Raises:
        FolderError: it is so.
    """
    read_own_vocabulary(folder, key="student.start")
    _require_own_modules(folder)


def read_prompts(folder: Path) -> tuple[str, str]:
    """Return what a student's folder puts before documents and before queries."""
    path = folder / "config_sentence_transformers.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    prompts = record.get("prompts") or {}
    return prompts.get("document") or "", prompts.get("query") or ""


def open_student(folder: Path, settings: StudentRecipe) -> Student:
    """Return the student of a folder as it was saved; `settings` say how it is trained from here.

    Raises:
        FolderError: no student is there, or a damaged one, or one with the modules of others.
        RecipeError: `settings.max_tokens` is more than its positions.
    """
    from sentence_transformers import SentenceTransformer

    family = verify_student(folder)[1].family
    _require_own_modules(folder)
    with quiet_transformers():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    if family == "static":
        return StaticStudent(model[0].embedding.weight.detach().float(), settings)
    body = model[0].auto_model.float()
    require_positions(body, settings.max_tokens)
    table = body.get_input_embeddings().weight.detach().clone()
    if body.config.model_type == "bert":
        body.pooler = None
    dense = [module.float() for module in model if type(module).__name__ == "Dense"]
    return TransformerStudent(table, settings, body=ready_for_training(body, settings), dense=dense)


def _require_own_modules(folder: Path) -> None:
    """Refuse what `Student` would leave out: it knows a table, or a body, its mean and dense layers behind it."""
    kinds: list[str] = []
    for module in read_modules(folder):
        path = module.folder / "config.json"
        config = read_object(path) if module.kind in ("Pooling", "Dense") and path.is_file() else {}
        modes = {name for name, value in config.items() if name.startswith("pooling_mode_") and value is True}
        if config.get("pooling_mode", "mean") != "mean" or modes - {"pooling_mode_mean_tokens"}:
            raise _untrainable(folder, f"a pooling that is no mean ({path})")
        if module.kind == "Dense" and kinds[-1:] == ["Normalize"] and not _is_linear(config):
            raise _untrainable(folder, f"a dense layer over unit vectors with a bias or an activation ({path})")
        kinds.append(module.kind)
    begin = 1 if kinds[0] == "StaticEmbedding" else 2
    known = {"Normalize"} if begin == 1 else {"Normalize", "Dense"}
    if kinds[:begin] not in (["StaticEmbedding"], ["Transformer", "Pooling"]) or not known.issuperset(kinds[begin:]):
        raise _untrainable(folder, f"the modules {' + '.join(kinds)}")
    path = folder / PROMPTS_NAME
    if path.is_file() and read_object(path).get("truncate_dim"):
        raise _untrainable(folder, f"a truncate_dim ({path})")


def _is_linear(config: Mapping[str, Any]) -> bool:
    """Whether a dense layer gives vectors of the same direction, however long its input is."""
    return not config.get("bias", True) and str(config.get("activation_function", "")).endswith(".Identity")


def _untrainable(folder: Path, what: str) -> FolderError:
    return FolderError(f"{folder} has {what}, which training would leave out; name it as teacher.model instead")
