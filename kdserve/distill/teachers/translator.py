"""A translator's bundle as teacher: it writes targets as it is deployed, and has no weights to give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdserve.distill.data.corpus import digest_of
from kdserve.errors import RecipeError
from kdserve.manifest import MANIFEST_NAME, kind_of
from kdserve.recipe import SequenceRecipe, WriterTeacherRecipe
from kdserve.runtime.published import find_bundle, published_names
from kdserve.runtime.sequence import Translator


class TranslatorTeacher:
    """What a bundle's beams write: the same in any batch, on one thread as on many."""

    def __init__(self, folder: Path, settings: WriterTeacherRecipe) -> None:
        self.settings, self.translator = settings, Translator.load(folder)
        self.fingerprint = self.translator.fingerprint

    @property
    def outputs_key(self) -> str:
        """SHA-256 of what its outputs depend on, but for the texts."""
        return digest_of(self.fingerprint, self.settings.num_beams, self.settings.candidates, self._penalty)

    def write(self, texts: Sequence[str], *, language: str) -> list[list[str]]:
        """Return `candidates` outputs a text or fewer, the best first; those that came to no end are none."""
        found = self.translator.candidates(
            texts,
            source=language if language in self.translator.settings.source_tokens else "",
            num_beams=self.settings.num_beams,
            length_penalty=self._penalty,
        )
        return [outputs[: self.settings.candidates] for outputs in found]

    @property
    def _penalty(self) -> float:
        return self.settings.length_penalty


def find_translator(recipe: SequenceRecipe) -> Path | None:
    """Return the bundle that a recipe names as its teacher, a folder or a published one; None: it names another model.

    Raises:
        RecipeError: more is asked of it than outputs.
    """
    named, student, aims = recipe.teacher, recipe.student, recipe.objective
    folder = Path(recipe.data_dir) / named.model
    if not folder.is_dir():
        is_published = named.model in published_names("translator")
        folder = find_bundle(named.model, kind="translator") if is_published else Path(named.model)
    if not (folder / MANIFEST_NAME).is_file() or kind_of(folder) != "translator":
        return None
    lacks = {
        "objective.alpha": aims.alpha > 0,
        "objective.map": aims.needs_states,
        "teacher.prefix": bool(named.prefix),
        "teacher.target_code": bool(named.target_code),
        "a student of its layers": not (student.start or student.encoder or student.body),
    }
    if asked := [key for key, is_asked in lacks.items() if is_asked]:
        raise RecipeError(
            f"teacher.model is a bundle, {folder}, which only writes; {asked[0]} does not go with it: name the folder "
            "of the student that it was exported from"
        )
    return folder
