"""Prepare the run of a student that writes, and write its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.card import Outcome, draw_curve
from kdserve.distill.data.corpus import build_corpus, digest_of
from kdserve.distill.data.overlap import refuse_overlap
from kdserve.distill.data.sequences import WritingData
from kdserve.distill.data.sides import Sides
from kdserve.distill.hardware import processes
from kdserve.distill.objectives.writing import InsideDistillation
from kdserve.distill.prepare.writing_data import gather_writing
from kdserve.distill.run import Run
from kdserve.distill.start.writer import start_writer
from kdserve.distill.tasks.translation import WritingTask
from kdserve.distill.teachers.embedder import fingerprint_folder
from kdserve.distill.teachers.encoder_decoder import EncoderDecoder
from kdserve.distill.teachers.writer import WriterTeacher, open_writer_teacher
from kdserve.errors import FolderError, RecipeError
from kdserve.manifest import MANIFEST_NAME, kind_of, read_manifest, write_manifest
from kdserve.model_settings import SequenceStudentSettings, StudentSettings
from kdserve.quiet import quiet_transformers
from kdserve.recipe import SequenceRecipe, recipe_record, teacher_name
from kdserve.staging import staged_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class WritingRun(Run):
    """The run of a student that writes."""

    recipe: SequenceRecipe
    task: WritingTask
    data: WritingData
    sides: Sides
    table_bits: Literal[0, 4, 8]

    def save(self, outcome: Outcome, out: Path) -> None:
        """Write the student's folder (docs/sequence-to-sequence.md), whole or not at all."""
        recipe, accuracy = self.recipe, outcome.accuracy
        sources, targets = self.sides.tokens_by_language()
        with staged_folder(out) as folder:
            with quiet_transformers():
                self.task.student.model.cpu().save_pretrained(folder)
            self.sides.save(folder)
            log = self.work / "train" / "log.jsonl"
            draw_curve(log, folder / "curve.png", title=recipe.name, measure="held-out chrF / 100")
            _write_card(outcome, recipe, self.data, folder / "README.md")
            write_manifest(
                folder,
                kind="sequence-student",
                parents=dict(self.parents),
                settings=SequenceStudentSettings(
                    name=recipe.name,
                    family="sequence",
                    task=recipe.task,
                    max_tokens=recipe.student.max_tokens,
                    max_output_tokens=recipe.student.max_output_tokens,
                    languages=recipe.covered(self.data.corpus.languages),
                    weak_languages=tuple(sorted(recipe.weak_languages)),
                    targets=("en",) if recipe.task == "translate" else (),
                    prefix=recipe.teacher.prefix,
                    source_tokens=sources,
                    target_tokens=targets,
                    table_bits=self.table_bits,
                    recipe=recipe_record(recipe),
                    accuracy={"languages": accuracy.by_language, "domains": accuracy.by_domain},
                ).to_json(),
            )


def prepare_writer(
    recipe: SequenceRecipe, work: Path, *, cache: Path | None = None, progress: Progress = no_progress
) -> WritingRun:
    """Gather pairs, teacher, student, and what the teacher has to say; each is made once below `work`.

    `cache` (default: inside `work`) keeps the teacher's outputs for other runs.

    Raises:
        KdserveError: see the rooms.
    """
    parents = parent_folders(recipe)
    with processes().main_process_first():  # it makes what the others then open
        corpus = build_corpus(recipe, work / "corpus", progress=progress)
        refuse_overlap(corpus, recipe, progress=progress)
        teacher = open_writer_teacher(recipe) if recipe.teacher.model else None
        taught_by = teacher if isinstance(teacher, WriterTeacher) else None  # a bundle only writes
        student, sides = start_writer(recipe, corpus, taught_by, work)
        _require_same_tokens(recipe, sides, taught_by)
        data, learned = gather_writing(recipe, corpus, sides, teacher, work, cache=cache, progress=progress)
    if teacher:
        parents["teacher"] = teacher.fingerprint
    record = recipe_record(recipe)
    for label in ("name", "languages", "weak_languages", "refuse_overlap"):
        del record[label]  # the corpus stands for the languages; the rest changes no weight
    return WritingRun(
        recipe=recipe,
        work=work,
        key=digest_of(record, *parents.values(), learned),
        task=WritingTask(recipe, data, student, sides, inside=_inside(recipe, student, taught_by)),
        data=data,
        sides=sides,
        parents=parents,
        table_bits=_table_bits(recipe),
    )


def parent_folders(recipe: SequenceRecipe) -> dict[str, str]:
    """Return the fingerprints of what the student begins with.

    Raises:
        FolderError: it is not there, or a bundle.
    """
    named = {"student": recipe.student.start, "encoder": recipe.student.encoder}
    found = {}
    for role, name in named.items():
        folder = Path(recipe.data_dir) / name
        key = f"student.{'start' if role == 'student' else role}"
        if name and not folder.is_dir():
            raise FolderError(f"there is no folder {folder}; check {key}")
        if name and kind_of(folder) in ("bundle", "classifier", "translator"):
            raise FolderError(f"{folder} is a bundle; make a student's folder of it with kdserve reopen for {key}")
        if name:
            found[role] = fingerprint_folder(folder)
    return found


def _require_same_tokens(recipe: SequenceRecipe, sides: Sides, teacher: WriterTeacher | None) -> None:
    """Refuse, before the teacher writes for hours, objectives that compare other tokens than the teacher's."""
    aims = recipe.objective
    if teacher and teacher.sides.digest != sides.digest and (aims.alpha or aims.needs_states):
        named = "objective.alpha compares" if aims.alpha else "objective.hidden and attention compare"
        raise RecipeError(
            f"{named} tokens, and the student has another vocabulary than its teacher; set them to 0, or begin with "
            "layers of the teacher"
        )


def _inside(
    recipe: SequenceRecipe, student: EncoderDecoder, teacher: WriterTeacher | None
) -> InsideDistillation | None:
    if not recipe.objective.needs_states:
        return None
    assert teacher is not None
    return InsideDistillation(recipe.objective, teacher.writer, student, seed=recipe.seed)


def _table_bits(recipe: SequenceRecipe) -> Literal[0, 4, 8]:
    """Return the bits that the encoder's table was made for, where it stays as it was."""
    folder = Path(recipe.data_dir) / (recipe.student.encoder or recipe.student.start)
    if recipe.train.table_rate or not (folder / MANIFEST_NAME).is_file():
        return 0
    if kind_of(folder) == "student":
        return StudentSettings.from_manifest(read_manifest(folder, kind="student"), folder).table_bits
    return SequenceStudentSettings.from_manifest(read_manifest(folder, kind="sequence-student"), folder).table_bits


def _write_card(outcome: Outcome, recipe: SequenceRecipe, data: WritingData, path: Path) -> None:
    accuracy = outcome.accuracy
    worst, lowest = accuracy.worst
    verb = "translates" if recipe.task == "translate" else "summarises"
    measured = (
        f"chrF on held-out pairs, greedy: mean {100 * accuracy.mean:.1f} over {len(accuracy.by_language)} languages, "
        f"lowest {100 * lowest:.1f} ({worst})."
        if accuracy.by_language
        else "Too few pairs were held out to measure chrF."
    )
    lines = [
        f"# {recipe.name}",
        "",
        f"A student that {verb}, made by kdserve from the recipe in `kdserve.json`; "
        + (f"its teacher is {teacher_name(recipe.teacher.model)}." if recipe.teacher.model else "it had no teacher."),
        "",
        f"{measured} Weights of step {outcome.best_step} of {recipe.train.steps}. "
        f"{len(data.trained):,} pairs were trained on, {data.num_filtered:,} did not pass the filters.",
        "",
        "| language | pairs | held-out chrF |",
        "|---|--:|--:|",
    ]
    for language, count in sorted(outcome.num_pairs.items()):
        found = accuracy.by_language.get(language)
        lines.append(f"| {language} | {count:,} | {'' if found is None else f'{100 * found:.1f}'} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
