"""Language identification: no teacher; the label of a text is the language that the corpus says it is in.

Letters: P translations, S source sentences, V vocabulary, W width of the table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from kdserve.datatypes import Progress
from kdserve.distill.data.corpus import SOURCE, Corpus, iter_texts
from kdserve.distill.data.overlap import comparison_form
from kdserve.distill.data.pairs import hash_text
from kdserve.distill.streams import Stream, random_stream
from kdserve.distill.students.embedder import StaticStudent
from kdserve.distill.tasks.classification import Lessons
from kdserve.distill.teachers.head import Head
from kdserve.distill.training.validation import held_out_pairs
from kdserve.recipe import StudentRecipe, ValidationRecipe

_DEVIATION = 0.1


def language_lessons(corpus: Corpus, settings: ValidationRecipe, *, seed: int, progress: Progress) -> Lessons:
    """Label every text by its language.

    The held-out texts are translations of held-out sources, and such sources themselves. What also occurs among the
    training texts, but for case and punctuation, is left out: interface strings mostly.
    """
    labels = tuple(sorted({SOURCE, *(language for language in corpus.languages if language)}))
    number_of = np.array([labels.index(language) if language else -1 for language in corpus.languages])
    label_of = np.concatenate(
        [number_of[corpus.language_of], np.full(len(corpus.sources), labels.index(SOURCE))]
    ).astype(np.int64)
    pairs = held_out_pairs(corpus, settings, seed=seed)
    sources = np.unique(corpus.source_of[pairs]).astype(np.int64)
    drawn = random_stream(Stream.HELD_OUT_SOURCES, seed).permutation(sources)[: 5 * settings.max_pairs]
    held_out = np.concatenate([pairs, np.sort(drawn) + len(corpus.source_of)])
    return Lessons(labels=labels, held_out=held_out[_unseen(corpus, held_out, progress)], label_of=label_of)


def start_language_student(
    tokenizer: Tokenizer, num_labels: int, settings: StudentRecipe, *, seed: int
) -> tuple[StaticStudent, Head]:
    """Draw a table (V, W) and a head at random."""
    assert settings.body is not None  # a rule of recipes
    generator, width = torch.Generator().manual_seed(seed), settings.body.width
    table = torch.randn(tokenizer.get_vocab_size(), width, generator=generator) * _DEVIATION
    weight = torch.randn(width, num_labels, generator=generator) * _DEVIATION
    return StaticStudent(table, settings), Head(weight_DK=weight, bias_K=torch.zeros(num_labels))


def _unseen(corpus: Corpus, held_out: npt.NDArray[np.int64], progress: Progress) -> npt.NDArray[np.bool_]:
    """(N,) which of the texts do not occur among the training texts."""
    seen: set[int] = set()
    total = len(corpus.translations) + len(corpus.sources)
    done = 0
    for store, held in ((corpus.translations, corpus.held_out[corpus.source_of]), (corpus.sources, corpus.held_out)):
        rows = np.flatnonzero(~held).tolist()
        for texts in iter_texts(store, rows):
            seen.update(hash_text(comparison_form(text)) for text in texts)
            done += len(texts)
            progress("looking for equal texts", done, total)
    progress("looking for equal texts", total, total)
    num_pairs = len(corpus.source_of)
    texts = [
        corpus.translations[number] if number < num_pairs else corpus.sources[number - num_pairs]
        for number in held_out.tolist()
    ]
    return np.array([hash_text(comparison_form(text)) not in seen for text in texts], dtype=bool)
