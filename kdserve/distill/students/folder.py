"""Open a student's folder again: to train on, to grow it, or to let it teach."""

from __future__ import annotations

import json
from pathlib import Path

from kdserve.distill.students.bodies import ready_for_training, require_positions
from kdserve.distill.students.embedder import StaticStudent, Student, TransformerStudent
from kdserve.manifest import read_manifest
from kdserve.model_settings import verify_student
from kdserve.modules import read_modules
from kdserve.quiet import quiet_transformers
from kdserve.recipe import Recipe, StudentRecipe


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


def read_prompts(folder: Path) -> tuple[str, str]:
    """Return what a student's folder puts before documents and before queries."""
    path = folder / "config_sentence_transformers.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    prompts = record.get("prompts") or {}
    return prompts.get("document") or "", prompts.get("query") or ""


def open_student(folder: Path, settings: StudentRecipe) -> Student:
    """Return the student of a folder as it was saved; `settings` say how it is trained from here.

    Raises:
        FolderError: no student is there, or a damaged one.
        RecipeError: `settings.max_tokens` is more than its positions.
    """
    from sentence_transformers import SentenceTransformer

    family = verify_student(folder)[1].family
    read_modules(folder)
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
