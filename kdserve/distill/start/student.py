"""The untrained student: its token table solved in closed form, its body taken from the teacher or drawn at random.

Letters: V vocabulary, W width of the body, D width of the teacher's vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.sampling import text_shares
from kdserve.distill.data.vocabulary import CLS, SEP, UNK
from kdserve.distill.hardware import best_device
from kdserve.distill.objectives.guide import require_dim
from kdserve.distill.objectives.layers import LayerDistillation, TeacherBody
from kdserve.distill.objectives.live import LiveTeacher
from kdserve.distill.start.ingredients import Ingredients, keep_solved, solves_vectors
from kdserve.distill.start.inherit import encode_sources, fit_body, teacher_rows
from kdserve.distill.start.ridge import solve_ridge, token_pull
from kdserve.distill.streams import Stream, random_stream
from kdserve.distill.students.adopt import adopted_table
from kdserve.distill.students.bodies import copy_special_rows, draw_body, take_body, teacher_dense, teacher_input_table
from kdserve.distill.students.embedder import StaticStudent, Student, TransformerStudent
from kdserve.distill.students.folder import open_student
from kdserve.distill.teachers.embedder import Teacher
from kdserve.errors import RecipeError
from kdserve.recipe import BodyRecipe, LayerRecipe, Recipe, StudentRecipe

_OWN_TABLE_DEVIATION = 0.2
"""Of the values of a table under a body drawn at random, where positions deviate by 0.02 (each layer normalises)."""
Targets = Callable[[npt.NDArray[np.int64]], Tensor]


def start_student(recipe: Recipe, ingredients: Ingredients, work: Path, *, progress: Progress = no_progress) -> Student:
    """Return the student before its first training step; the solved table is kept in `work`.

    The table of a static student and of a body of one's own is solved onto the teacher's vectors, the one under the
    teacher's layers onto the mean of the teacher's input rows, or has the teacher's rows where it has its vocabulary.
    """
    settings = recipe.student
    if settings.start:
        return _go_on(recipe, ingredients)
    if settings.table_rank > ingredients.tokenizer.get_vocab_size():
        raise RecipeError("student.table_rank is larger than the vocabulary; lower it")
    body = take_body(ingredients.teacher, settings) if recipe.takes_layers else None
    dense = teacher_dense(ingredients.teacher) if recipe.takes_layers else []
    if body is not None and recipe.align.body_steps:
        own = work / f"body-{ingredients.body_key(recipe)[:16]}"
        fitted = fit_body(recipe, ingredients, own, body=body, dense=dense, progress=progress)
        body, dense = fitted.body, list(fitted.dense)
    if recipe.vocabulary.of_teacher:
        table = adopted_table(ingredients.tokenizer, ingredients.teacher)
        student = TransformerStudent(table, settings, body=body, dense=dense)
        student.table.requires_grad_(recipe.train.table_rate > 0)  # else the teacher's own rows stay
        return student
    path = work / f"table-{ingredients.table_key(recipe)[:16]}.safetensors"
    table = keep_solved(path, lambda: {"table": _solve_table(recipe, ingredients, progress)})["table"]
    if recipe.family == "static":
        return StaticStudent(table, settings)
    if body is None:
        assert settings.body is not None
        return _start_own_body(table, settings, settings.body, ingredients, seed=recipe.seed)
    copy_special_rows(table, ingredients.teacher)
    return TransformerStudent(table, settings, body=body, dense=dense)


def start_live(recipe: Recipe, tokenizer: Tokenizer, *, teacher: Teacher) -> LiveTeacher | None:
    """Return the teacher that runs beside the student on its tokens, if the recipe wants it."""
    if not recipe.targets.live:
        return None
    table_VW = adopted_table(tokenizer, teacher)
    return LiveTeacher(teacher, table_VW, student=recipe.student, targets=recipe.targets, states=recipe.layers)


def _go_on(recipe: Recipe, ingredients: Ingredients) -> Student:
    folder = Path(recipe.data_dir) / recipe.student.start
    student = open_student(folder, recipe.student)
    if isinstance(student, TransformerStudent) != (recipe.family == "transformer"):
        raise RecipeError(f"student.start {folder} is not of family {recipe.family}; set family to the other one")
    require_dim(student, folder, dim=ingredients.teacher.dim)
    return student


def _start_own_body(
    table_VD: Tensor, settings: StudentRecipe, size: BodyRecipe, ingredients: Ingredients, *, seed: int
) -> TransformerStudent:
    """Put the table under a body drawn at random, which begins as little more than a sum, as its layers add to it.

    Another width than the teacher's is reached by the main directions of the teacher's vectors, and left by a dense
    layer that starts as their transpose; so the student starts near the static one.
    """
    from sentence_transformers.sentence_transformer.modules import Dense

    dim, width = ingredients.teacher.dim, size.width
    generator = torch.Generator().manual_seed(seed)
    table_VD *= _OWN_TABLE_DEVIATION / table_VD.std()
    special = [CLS, SEP, UNK]
    table_VD[special] = torch.randn(len(special), dim, generator=generator) * _OWN_TABLE_DEVIATION
    body = draw_body(size, settings, seed=seed)
    if width == dim:
        return TransformerStudent(table_VD, settings, body=body)
    directions_DW = _main_directions(ingredients, width)
    dense = Dense(width, dim, bias=False, activation_function=None, init_weight=directions_DW.clone())
    return TransformerStudent(table_VD @ directions_DW, settings, body=body, dense=[dense])


def _main_directions(ingredients: Ingredients, width: int) -> Tensor:
    """(D, W): orthonormal directions along which the teacher's vectors are longest; zero columns beyond D of them."""
    rows = ingredients.data.row_of[:: 1 + len(ingredients.data.row_of) // 50_000]
    vectors = torch.from_numpy(ingredients.data.vectors[rows].astype(np.float32))
    _, directions = torch.linalg.eigh(vectors.T @ vectors)
    directions = directions.flip(1)[:, :width]
    return torch.nn.functional.pad(directions, (0, width - directions.shape[1]))


def start_layers(
    settings: LayerRecipe, student: Student, *, teacher: TeacherBody, tokenizer: Tokenizer, corpus: Corpus, seed: int
) -> LayerDistillation | None:
    """Return the recipe's distillation of inner layers, if it has one."""
    if not settings.hidden + settings.attention + settings.relations:
        return None
    if not isinstance(student, TransformerStudent):
        raise RecipeError('layers.* needs family = "transformer": static students have none')
    return LayerDistillation(settings, teacher, student, tokenizer, corpus, seed=seed)


def _solve_table(recipe: Recipe, ingredients: Ingredients, progress: Progress) -> Tensor:
    corpus, num_pairs = ingredients.corpus, len(ingredients.corpus.source_of)
    texts, shares = text_shares(corpus, recipe.train)
    weights = (shares * len(shares)).astype(np.float32)
    source_of = corpus.sources_of(texts)
    if len(texts) > recipe.align.max_rows:
        rng = random_stream(Stream.RIDGE_ROWS, recipe.seed)
        chosen = np.sort(rng.choice(len(texts), recipe.align.max_rows, replace=False))
        texts, weights, source_of = texts[chosen], weights[chosen], source_of[chosen]
    device = torch.device(best_device())
    size = ingredients.tokenizer.get_vocab_size()
    damping = torch.full((size,), recipe.align.damping)
    if solves_vectors(recipe):
        start = torch.zeros(size, ingredients.teacher.dim, device=device)
        targets = _teacher_vectors(ingredients, source_of)
    else:
        means = _input_means(ingredients, device, progress)
        in_sources = ingredients.data.tokens.ids[ingredients.data.tokens.offsets[num_pairs] :]
        seen = torch.from_numpy(np.bincount(in_sources, minlength=size) > 0)
        start, shared = teacher_rows(ingredients.tokenizer, ingredients.teacher, seen)
        is_source = texts >= num_pairs
        damping += (
            recipe.align.anchor
            * shared
            * token_pull(ingredients.data.tokens, texts[is_source], weights[is_source], size)
        )
        targets = _rows_of(means, source_of)
    solved = solve_ridge(
        ingredients.data.tokens,
        texts,
        weights,
        targets,
        start=start.to(device),
        damping=damping.to(device),
        iterations=recipe.align.iterations,
        progress=progress,
        what="aligning the token table",
    )
    return solved.cpu()


def _teacher_vectors(ingredients: Ingredients, source_of: npt.NDArray[np.int64]) -> Targets:
    rows = ingredients.data.row_of[source_of]
    return lambda positions: torch.from_numpy(ingredients.data.vectors[rows[positions]].astype(np.float32))


def _rows_of(means: Tensor, source_of: npt.NDArray[np.int64]) -> Targets:
    return lambda positions: means[torch.from_numpy(source_of[positions]).to(means.device)]


def _input_means(ingredients: Ingredients, device: torch.device, progress: Progress) -> Tensor:
    """(S, D): the mean of the teacher's own input rows over each source sentence."""
    table = teacher_input_table(ingredients.teacher).to(device)
    parts = []
    for texts in encode_sources(ingredients.corpus, ingredients.teacher, progress=progress):
        ids = torch.tensor([i for text in texts for i in text], device=device)
        lengths = torch.tensor([0] + [len(text) for text in texts], device=device)
        parts.append(torch.nn.functional.embedding_bag(ids, table, lengths.cumsum(0)[:-1], mode="mean"))
    return torch.cat(parts)
