"""The run of a student that embeds: its texts, its teacher and its start are gathered."""

from __future__ import annotations

from pathlib import Path

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.card import Outcome, write_card
from kdserve.distill.data.vocabulary import measure_coverage, sentences_by_language
from kdserve.distill.hardware import processes
from kdserve.distill.objectives.guide import start_guide
from kdserve.distill.run import EmbeddingRun
from kdserve.distill.start.centres import keep_centres
from kdserve.distill.start.fold import keep_folded
from kdserve.distill.start.ingredients import Ingredients, gather, student_prompts
from kdserve.distill.start.student import start_layers, start_live, start_student
from kdserve.distill.students.embedder import Student, TransformerStudent
from kdserve.distill.students.folder import parent_students
from kdserve.distill.tasks.embedding import EmbeddingTask
from kdserve.distill.training.validation import QuestionValidator, TranslationValidator, Validator
from kdserve.evaluate import read_questions
from kdserve.recipe import Recipe


def prepare_embedder(recipe: Recipe, work: Path, cache: Path | None, progress: Progress) -> EmbeddingRun:
    """Make everything below `work` that a student of vectors takes; see `prepare`."""
    with processes().main_process_first():  # it makes what the others then open
        ingredients = gather(recipe, work, cache=cache, progress=progress)
    student = start_student(recipe, ingredients, work, progress=progress)
    return run_embedder(recipe, ingredients, student, work, progress=progress)


def run_embedder(
    recipe: Recipe,
    ingredients: Ingredients,
    student: Student,
    work: Path,
    *,
    progress: Progress = no_progress,
) -> EmbeddingRun:
    """Return the run that trains this student."""
    live = start_live(recipe, ingredients.tokenizer, teacher=ingredients.teacher)
    if live and recipe.align.fold_texts and isinstance(student, TransformerStudent):
        keep_folded(recipe, ingredients, student, live, work, progress=progress)
    if live and recipe.targets.centred:
        keep_centres(recipe, ingredients, live, work, progress=progress)
    task = EmbeddingTask(
        recipe,
        ingredients.data,
        student,
        start_validator(recipe, ingredients),
        layers=start_layers(
            recipe.layers,
            student,
            teacher=ingredients.teacher,
            tokenizer=ingredients.tokenizer,
            corpus=ingredients.corpus,
            seed=recipe.seed,
        ),
        guide=start_guide(recipe, student, ingredients.tokenizer, dim=ingredients.teacher.dim),
        live=live,
    )

    def write_own(outcome: Outcome, folder: Path) -> None:
        texts = sentences_by_language(ingredients.corpus, most=500, seed=recipe.seed)
        write_card(outcome, recipe, measure_coverage(ingredients.tokenizer, texts), folder / "README.md")

    return EmbeddingRun(
        recipe=recipe,
        work=work,
        key=ingredients.run_key(recipe),
        task=task,
        encoder=student,
        tokenizer=ingredients.tokenizer,
        data=ingredients.data,
        dim=ingredients.teacher.dim,
        parents={"teacher": ingredients.teacher.fingerprint, **parent_students(recipe)},
        write_own=write_own,
        measure="held-out translation accuracy",
        prompts=student_prompts(recipe, ingredients.teacher),
    )


def start_validator(recipe: Recipe, ingredients: Ingredients) -> Validator:
    """Return what judges the student: held-out translations, and the recipe's questions if it names any.

    Raises:
        DataError: there are no such questions.
    """
    tokens = ingredients.data.tokens
    validator = TranslationValidator(ingredients.corpus, tokens, recipe.validation, seed=recipe.seed)
    if not recipe.validation.questions:
        return validator
    sets = read_questions(Path(recipe.data_dir) / recipe.validation.questions)
    edges = 2 if recipe.family == "transformer" else 0
    most, prompts = recipe.student.max_tokens - edges, tokens.prompts
    return QuestionValidator(validator, sets, ingredients.tokenizer, max_tokens=most, prompts=prompts)
