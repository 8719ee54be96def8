"""Inheritance from the teacher, prepared: layers that fit each other, and rows for the words both know.

Layers taken out of the teacher's stack do not fit each other at once. They learn it quickest on source sentences in the
teacher's own tokens, whose table is good already; then the student's table is solved for the layers as they will stay.

Letters: V vocabulary, W width of the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.batches import TrainingData
from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.tokens import TokenStore
from kdserve.distill.data.vocabulary import BYTE_TOKENS, SPECIAL_TOKENS, WORD_START
from kdserve.distill.start.ingredients import Ingredients
from kdserve.distill.students.bodies import copy_special_rows, teacher_input_table
from kdserve.distill.students.embedder import Student, TransformerStudent
from kdserve.distill.students.inference import embed_texts
from kdserve.distill.tasks.embedding import EmbeddingTask
from kdserve.distill.teachers.embedder import Teacher
from kdserve.distill.training.trainer import Trainer
from kdserve.distill.training.validation import Accuracy
from kdserve.errors import TrainingError
from kdserve.recipe import LayerRecipe, ObjectiveRecipe, Recipe

_SPECIAL = len(SPECIAL_TOKENS)
_MAX_MEASURED = 2_000


def fit_body(
    recipe: Recipe,
    ingredients: Ingredients,
    work: Path,
    *,
    body: Any,
    dense: list[Any],
    progress: Progress = no_progress,
) -> TransformerStudent:
    """Distil layers of the teacher's in its own tokens for `align.body_steps`; `work` keeps the checkpoints.

    Returns:
        The trained body and dense layers, under the teacher's table.
    """
    table = teacher_input_table(ingredients.teacher)
    table_VW = torch.cat([torch.zeros(_SPECIAL, table.shape[1]), table.cpu()])  # its ids move up by our special tokens
    copy_special_rows(table_VW, ingredients.teacher)
    student = TransformerStudent(table_VW, replace(recipe.student, table_bits=0, table_rank=0), body=body, dense=dense)
    student.table.requires_grad_(False)
    tokens = _teacher_tokens(ingredients, max_tokens=recipe.student.max_tokens - 2, progress=progress)
    steps = recipe.align.body_steps
    train = replace(
        recipe.train,
        steps=steps,
        body_rate=recipe.align.body_rate,
        source_share=1.0,
        token_dropout=0.0,
        cycles=1,
        evaluate_every=max(1, steps // 4),
        checkpoint_every=min(recipe.train.checkpoint_every, 200),
    )
    own = replace(recipe, objective=ObjectiveRecipe(), layers=LayerRecipe(), train=train)
    data = replace(ingredients.data, tokens=tokens)
    task = EmbeddingTask(own, data, student, TeacherCosine(data), what="fitting the layers to each other")
    Trainer(task, train, work, key=ingredients.body_key(recipe), seed=recipe.seed).run(progress=progress)
    return student


def teacher_rows(tokenizer: Tokenizer, teacher: Teacher, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each token of `tokenizer`, what the teacher's table holds for the same letters: (V, W).

    A token that is several of the teacher's gets their mean where it is `seen` (V,) in source sentences. The mean of
    the whole table stands for all others, and for what the teacher cannot spell. Also returned, as (V,): which of them
    are one token of the teacher's.
    """
    own = teacher.model.tokenizer
    table, known = teacher_input_table(teacher), own.get_vocab()
    rows = table.mean(dim=0).repeat(tokenizer.get_vocab_size(), 1)
    shared = torch.zeros(len(rows), dtype=torch.bool)
    for token, number in tokenizer.get_vocab().items():
        if number < _SPECIAL + len(BYTE_TOKENS):
            continue
        inner = known.get(f"##{token}")  # how WordPiece writes what begins no word
        letters = token.removeprefix(WORD_START)
        ids = [inner] if inner is not None else own(letters, add_special_tokens=False)["input_ids"]
        if ids and own.unk_token_id not in ids and (len(ids) == 1 or seen[number]):
            rows[number], shared[number] = table[ids].mean(dim=0), len(ids) == 1
    return rows, shared


class TeacherCosine:
    """A `Validator`: what counts is the mean cosine to the teacher on source sentences that were held out."""

    def __init__(self, data: TrainingData) -> None:
        self.data = data
        self.sources = np.flatnonzero(data.corpus.held_out)[:_MAX_MEASURED]

    def measure(self, student: Student, step: int) -> Accuracy:
        """Return the mean cosine as the accuracy of one language without a name."""
        if not len(self.sources):
            return Accuracy(by_language={}, by_domain={})
        vectors = embed_texts(student, self.data.tokens, self.sources + len(self.data.corpus.source_of))
        cosine = float((vectors * self.data.targets(self.sources)).sum(dim=-1).mean())
        if not np.isfinite(cosine):
            raise TrainingError(f"the body's vectors are NaN at step {step}; lower align.body_rate")
        return Accuracy(by_language={"": cosine}, by_domain={})


def encode_sources(corpus: Corpus, teacher: Teacher, *, progress: Progress = no_progress) -> Iterator[list[list[int]]]:
    """Yield the sources' ids in the teacher's tokens, some thousand sentences at a time, without special tokens."""
    tokenizer = teacher.body_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for begin in range(0, len(corpus.sources), 10_000):
        numbers = range(begin, min(begin + 10_000, len(corpus.sources)))
        encodings = tokenizer.encode_batch_fast(corpus.sources.select(numbers), add_special_tokens=False)
        progress("sources in the teacher's tokens", numbers.stop, len(corpus.sources))
        yield [encoding.ids for encoding in encodings]


def _teacher_tokens(ingredients: Ingredients, *, max_tokens: int, progress: Progress) -> TokenStore:
    """The sources in the teacher's tokens; the translations are empty."""
    ids, lengths = [], [np.zeros(len(ingredients.corpus.source_of), dtype=np.int64)]
    for texts in encode_sources(ingredients.corpus, ingredients.teacher, progress=progress):
        cut = [text[:max_tokens] for text in texts]
        ids.append(np.array([number + _SPECIAL for text in cut for number in text], dtype=np.int32))
        lengths.append(np.array([len(text) for text in cut], dtype=np.int64))
    return TokenStore(ids=np.concatenate(ids), offsets=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]))
