"""Make a student of a teacher: recipe in, student folder out.

The road: read the pairs, train the vocabulary, embed the source sentences with the teacher, solve the token table in
closed form, train, save. Everything that takes long is kept in a work folder beside the target and resumed from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.card import Outcome, draw_curve, write_card
from kdserve.distill.corpus import Corpus, build_corpus
from kdserve.distill.hardware import best_device
from kdserve.distill.layers import LayerDistillation
from kdserve.distill.overlap import refuse_overlap
from kdserve.distill.ridge import solve_ridge
from kdserve.distill.student import (
    StaticStudent,
    Student,
    TransformerStudent,
    copy_special_rows,
    take_body,
    teacher_input_table,
)
from kdserve.distill.teacher import Teacher, VectorCache, load_teacher
from kdserve.distill.tokens import TokenStore, tokenize_corpus
from kdserve.distill.training import Trainer, TrainingData
from kdserve.distill.vocabulary import make_vocabulary, measure_coverage, sentences_by_language
from kdserve.errors import FolderError, RecipeError
from kdserve.manifest import staged_folder, write_manifest
from kdserve.recipe import Recipe, recipe_record

__all__ = ["Teacher", "distill", "load_teacher"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ingredients:
    """What a student is made of."""

    teacher: Teacher
    corpus: Corpus
    tokenizer: Tokenizer
    data: TrainingData

    @property
    def tokens(self) -> TokenStore:
        return self.data.tokens


def distill(
    recipe: Recipe,
    out: Path,
    *,
    work: Path | None = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Outcome:
    """Make the recipe's student and write it to `out`, a folder that SentenceTransformer opens.

    `work` (default: `out` + ".work") keeps corpus, tokens and checkpoints, so that a run that was stopped goes on to
    the same result; it is removed at the end. `cache` (default: inside `work`) keeps the teacher's vectors.

    Raises:
        KdserveError: see the rooms; nothing is left at `out`.
    """
    out = Path(out)
    if out.exists():
        raise FolderError(f"{out} exists already; choose another name or remove it first")
    work = Path(work) if work else out.with_name(out.name + ".work")
    _open_work(work)
    made = _gather(recipe, work, cache or work / "teacher", progress)
    student = _start(recipe, made, work, progress)
    layers = _layer_distillation(recipe, made, student)
    trainer = Trainer(recipe, made.data, student, work / "train", key=_run_key(recipe, made), layers=layers)
    accuracy = trainer.run(progress=progress)
    outcome = Outcome(
        recipe=recipe,
        accuracy=accuracy,
        best_step=trainer.best_step,
        coverage=measure_coverage(made.tokenizer, sentences_by_language(made.corpus, most=500, seed=recipe.seed)),
        num_pairs={
            language: int((made.corpus.language_of == number).sum())
            for number, language in enumerate(made.corpus.languages)
            if language
        },
        domains=made.corpus.domains,
    )
    if trainer.accelerator.is_main_process:
        _save(made, student.cpu(), outcome, work / "train" / "log.jsonl", out)
        shutil.rmtree(work)
    return outcome


def _open_work(work: Path) -> None:
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{work} cannot be made ({error.strerror}); choose another place for the student") from error


def _gather(recipe: Recipe, work: Path, cache: Path, progress: Progress) -> _Ingredients:
    corpus = build_corpus(recipe, work / "corpus", progress=progress)
    refuse_overlap(corpus, recipe, progress=progress)
    tokenizer = _keep_vocabulary(corpus, recipe, work / "vocabulary.json", progress)
    edges = 2 if recipe.family == "transformer" else 0
    tokens = tokenize_corpus(
        corpus, tokenizer, work / "tokens", max_tokens=recipe.student.max_tokens - edges, progress=progress
    )
    teacher = load_teacher(recipe.teacher.model, revision=recipe.teacher.revision, batch_size=recipe.teacher.batch_size)
    vectors = VectorCache(cache, teacher=teacher)
    vectors.fill(corpus, progress=progress)
    data = TrainingData(corpus=corpus, tokens=tokens, vectors=vectors.vectors, row_of=vectors.rows_of(corpus))
    return _Ingredients(teacher=teacher, corpus=corpus, tokenizer=tokenizer, data=data)


def _keep_vocabulary(corpus: Corpus, recipe: Recipe, path: Path, progress: Progress) -> Tokenizer:
    """Train the vocabulary once for this corpus and these settings."""
    settings = dataclasses.asdict(recipe.vocabulary)
    key = hashlib.sha256(json.dumps([settings, recipe.seed, len(corpus.source_of)]).encode()).hexdigest()
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["key"] == key:
            return Tokenizer.from_str(record["tokenizer"])
    tokenizer = make_vocabulary(corpus, recipe, progress=progress)
    path.write_text(json.dumps({"key": key, "tokenizer": tokenizer.to_str()}), encoding="utf-8")
    return tokenizer


def _start(recipe: Recipe, made: _Ingredients, work: Path, progress: Progress) -> Student:
    """Return the untrained student, its table solved by ridge regression (kept in `work`)."""
    body = take_body(made.teacher, recipe.student) if recipe.family == "transformer" else None
    _check_vocabulary(recipe, made.tokenizer)
    table = _keep_table(recipe, made, work / "table.safetensors", progress)
    if body is None:
        return StaticStudent(table, recipe.student)
    copy_special_rows(table, made.teacher)
    return TransformerStudent(table, recipe.student, body=body)


def _keep_table(recipe: Recipe, made: _Ingredients, path: Path, progress: Progress) -> Tensor:
    from safetensors.torch import load_file, save_file

    key = hashlib.sha256(f"{_run_key(recipe, made)}{recipe.family}".encode()).hexdigest()[:16]
    path = path.with_stem(f"table-{key}")
    if not path.is_file():
        save_file({"table": _solve_table(recipe, made, progress)}, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return load_file(path)["table"]


def _solve_table(recipe: Recipe, made: _Ingredients, progress: Progress) -> Tensor:
    corpus, num_pairs = made.corpus, len(made.corpus.source_of)
    pairs, sources = corpus.training_pairs(), np.flatnonzero(~corpus.held_out)
    texts = np.concatenate([pairs, sources + num_pairs])
    weights = np.concatenate([corpus.weight_of[pairs], corpus.source_weight[sources]])
    target = np.concatenate([corpus.source_of[pairs], sources])
    if len(texts) > recipe.align.max_rows:
        rng = np.random.default_rng([recipe.seed, 5])
        chosen = np.sort(rng.choice(len(texts), recipe.align.max_rows, replace=False))
        texts, weights, target = texts[chosen], weights[chosen], target[chosen]
    device = torch.device(best_device())
    size = made.tokenizer.get_vocab_size()
    if recipe.family == "static":
        start = torch.zeros(size, made.teacher.dim, device=device)

        def targets(positions: npt.NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(made.data.vectors[made.data.row_of[target[positions]]].astype(np.float32))

    else:
        means = _input_means(made, device, progress)
        start = means.mean(dim=0).expand(size, -1).clone()

        def targets(positions: npt.NDArray[np.int64]) -> Tensor:
            return means[torch.from_numpy(target[positions].astype(np.int64)).to(device)]

    solved = solve_ridge(
        made.tokens,
        texts,
        weights,
        targets,
        start=start,
        damping=recipe.align.damping,
        iterations=recipe.align.iterations,
        progress=progress,
        what="aligning the token table",
    )
    return solved.cpu()


def _input_means(made: _Ingredients, device: torch.device, progress: Progress) -> Tensor:
    """(S, D): the mean of the teacher's own input rows over each source sentence."""
    table = teacher_input_table(made.teacher).to(device)
    tokenizer = made.teacher.model.tokenizer.backend_tokenizer
    tokenizer.no_padding()
    parts = []
    for begin in range(0, len(made.corpus.sources), 10_000):
        numbers = range(begin, min(begin + 10_000, len(made.corpus.sources)))
        encodings = tokenizer.encode_batch_fast(made.corpus.sources.select(numbers), add_special_tokens=False)
        ids = torch.tensor([i for encoding in encodings for i in encoding.ids], device=device)
        lengths = torch.tensor([0] + [len(encoding.ids) for encoding in encodings], device=device)
        parts.append(torch.nn.functional.embedding_bag(ids, table, lengths.cumsum(0)[:-1], mode="mean"))
        progress("teacher input means", numbers.stop, len(made.corpus.sources))
    return torch.cat(parts)


def _layer_distillation(recipe: Recipe, made: _Ingredients, student: Student) -> LayerDistillation | None:
    if not recipe.layers.hidden + recipe.layers.relations:
        return None
    if not isinstance(student, TransformerStudent):
        raise RecipeError(
            'layers.hidden and layers.relations need family = "transformer"; a static student has no layers'
        )
    return LayerDistillation(recipe.layers, made.teacher, student, made.tokenizer, made.corpus)


def _check_vocabulary(recipe: Recipe, tokenizer: Tokenizer) -> None:
    if recipe.student.table_rank > tokenizer.get_vocab_size():
        raise RecipeError("student.table_rank is larger than the vocabulary; lower it")


def _run_key(recipe: Recipe, made: _Ingredients) -> str:
    """What a checkpoint depends on: recipe, teacher, corpus."""
    record = recipe_record(recipe)
    parts = [json.dumps(record, sort_keys=True), made.teacher.fingerprint, str(len(made.corpus.source_of))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _save(made: _Ingredients, student: Student, outcome: Outcome, log: Path, out: Path) -> None:
    from sentence_transformers import SentenceTransformer

    recipe = outcome.recipe
    with staged_folder(out) as folder:
        body = folder / ".body"
        body.mkdir()
        modules = student.modules_for_saving(made.tokenizer, body, max_tokens=recipe.student.max_tokens)
        SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
        shutil.rmtree(body)
        draw_curve(log, folder / "curve.png", title=recipe.name)
        write_card(outcome, folder / "README.md")
        languages = sorted(set(recipe.languages) or {language for language in made.corpus.languages if language})
        write_manifest(
            folder,
            kind="student",
            parents={"teacher": made.teacher.fingerprint},
            settings={
                "family": recipe.family,
                "name": recipe.name,
                "dim": made.teacher.dim,
                "max_tokens": recipe.student.max_tokens,
                "languages": sorted({"en", *languages}),
                "weak_languages": sorted(recipe.weak_languages),
                "table_bits": recipe.student.table_bits,
                "recipe": recipe_record(recipe),
                "accuracy": {"languages": outcome.accuracy.by_language, "domains": outcome.accuracy.by_domain},
            },
        )
