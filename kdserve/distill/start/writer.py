"""Start a student that writes: its weights before the first step, and the tokens of both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from torch import nn

from kdserve.distill.data.corpus import Corpus, TextStore, digest_of
from kdserve.distill.data.sides import Sides, TokenizerPair, open_sides, read_source
from kdserve.distill.data.target_vocabulary import train_target_vocabulary
from kdserve.distill.data.vocabulary import train_unigram
from kdserve.distill.kept import keep, kept
from kdserve.distill.streams import Stream, random_stream
from kdserve.distill.students import writer
from kdserve.distill.teachers.encoder_decoder import EncoderDecoder, open_writer
from kdserve.distill.teachers.writer import WriterTeacher, paddings_of
from kdserve.errors import RecipeError
from kdserve.recipe import SequenceRecipe

_LOOKED_AT = 256
"""So many texts say what an encoder's states are like."""
_MAX_RUN = 3
_KEEP_NAMES = {"translate": 0.5, "summarise": 0.65}
"""Measured on kdserve-gist and kdserve-brief (benchmarks/LOG.md, 2026-11-28)."""


def start_writer(
    recipe: SequenceRecipe, corpus: Corpus, teacher: WriterTeacher | None, work: Path
) -> tuple[EncoderDecoder, Sides]:
    """Return the student as the recipe begins it, and its tokenizers.

    Raises:
        KdserveError: see kdserve.distill.students.writer.
    """
    settings, below = recipe.student, Path(recipe.data_dir)
    if settings.start:
        model = open_writer(below / settings.start)
        sides = _sides_of(below / settings.start, model, recipe)
    elif settings.encoder:
        source = read_source(below / settings.encoder, key="student.encoder")
        target = _target_vocabulary(recipe, corpus, work)
        looked_at = _drawn(recipe, corpus.translations, corpus.training_pairs(), most=_LOOKED_AT)
        model = writer.add_decoder(below / settings.encoder, settings, source, target, looked_at, seed=recipe.seed)
        sides = TokenizerPair(source=source, target=target, paddings=paddings_of(model.config))
    elif teacher:
        taught = teacher.writer.model
        if settings.body:
            model = writer.resize(taught, settings.body, seed=recipe.seed)
        else:
            model = writer.keep_layers(taught, settings.encoder_layers, settings.decoder_layers)
        sides = teacher.sides
    else:
        assert settings.body is not None
        source, target = _source_vocabulary(recipe, corpus, work), _target_vocabulary(recipe, corpus, work)
        model = writer.draw_writer(settings.body, settings, source, target, seed=recipe.seed)
        sides = TokenizerPair(source=source, target=target, paddings=paddings_of(model.config))
    _require_positions(model, recipe)
    if sides.first is not None:
        model.generation_config.forced_bos_token_id = sides.first
    model.generation_config.keep_numbers = recipe.task == "translate"
    model.generation_config.keep_names = _KEEP_NAMES[recipe.task]
    model.generation_config.max_run = _MAX_RUN
    model.generation_config._from_model_config = False  # else it is made anew from the model's, without these
    set_dropout(model, settings.dropout)
    return EncoderDecoder(model), sides


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout of a model, those that are modules and those that are numbers of one; no layer is left out."""
    for module in model.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0  # type: ignore[assignment]
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = rate  # type: ignore[assignment]


def _sides_of(folder: Path, model: Any, recipe: SequenceRecipe) -> Sides:
    named = recipe.teacher
    return open_sides(
        folder,
        paddings=paddings_of(model.config),
        prefix=named.prefix,
        source_codes=named.source_codes,
        target_code=named.target_code,
    )


def _require_positions(model: Any, recipe: SequenceRecipe) -> None:
    """Refuse limits beyond what the model has positions for; T5 has none to run out of."""
    limits = {"max_tokens": recipe.student.max_tokens, "max_output_tokens": recipe.student.max_output_tokens}
    for (name, limit), side in zip(limits.items(), ("encoder", "decoder"), strict=True):
        config = getattr(model.config, side, model.config)
        most = getattr(config, "max_position_embeddings", limit)
        if limit > most:
            raise RecipeError(f"student.{name} is {limit}, but the {side} has {most} positions; lower it")


def _target_vocabulary(recipe: SequenceRecipe, corpus: Corpus, work: Path) -> Tokenizer:
    def make() -> Tokenizer:
        sources = np.unique(corpus.source_of[corpus.training_pairs()])
        drawn = _drawn(recipe, corpus.sources, sources, most=recipe.vocabulary.sentences)
        return train_target_vocabulary(drawn, recipe.vocabulary.size)

    return _kept(work / "target.json", recipe, corpus, make)


def _source_vocabulary(recipe: SequenceRecipe, corpus: Corpus, work: Path) -> Tokenizer:
    def make() -> Tokenizer:
        drawn = _drawn(recipe, corpus.translations, corpus.training_pairs(), most=recipe.vocabulary.sentences)
        return train_unigram(drawn, recipe.vocabulary.source_size, key="vocabulary.source_size")

    return _kept(work / "source.json", recipe, corpus, make)


def _drawn(recipe: SequenceRecipe, store: TextStore, numbers: Any, *, most: int) -> list[str]:
    rng = random_stream(Stream.VOCABULARY_SENTENCES, recipe.seed)
    return store.select(rng.permutation(numbers)[:most])


def _kept(path: Path, recipe: SequenceRecipe, corpus: Corpus, make: Callable[[], Tokenizer]) -> Tokenizer:
    """Make a vocabulary once for this corpus and these settings."""
    key = digest_of(asdict(recipe.vocabulary), recipe.seed, corpus.digest)
    if record := kept(path, key):
        return Tokenizer.from_str(record["tokenizer"])
    tokenizer = make()
    keep(path, key, tokenizer=tokenizer.to_str())
    return tokenizer
