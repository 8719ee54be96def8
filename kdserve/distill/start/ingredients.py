"""Gather what a student is made of: corpus, vocabulary, tokens, the teacher and its vectors; each is made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.batches import TrainingData
from kdserve.distill.data.corpus import Corpus, build_corpus, digest_of
from kdserve.distill.data.overlap import refuse_overlap
from kdserve.distill.data.tokens import TokenStore, tokenize_corpus
from kdserve.distill.data.vocabulary import draw_sentences, make_vocabulary
from kdserve.distill.hardware import processes
from kdserve.distill.kept import keep, kept
from kdserve.distill.students.adopt import adopt_vocabulary
from kdserve.distill.students.folder import parent_students, read_prompts
from kdserve.distill.teachers.embedder import Teacher, VectorCache, load_teacher
from kdserve.evaluate.files import files_of
from kdserve.manifest import hash_file
from kdserve.recipe import Recipe, recipe_record


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingredients:
    """Teacher, tokenizer and data of a student."""

    teacher: Teacher
    tokenizer: Tokenizer
    data: TrainingData

    @property
    def corpus(self) -> Corpus:
        """The training corpus."""
        return self.data.corpus

    def run_key(self, recipe: Recipe) -> str:
        """SHA-256 of what a checkpoint depends on: recipe, teacher, students, corpus."""
        record = recipe_record(recipe)
        for label in ("name", "languages", "weak_languages", "refuse_overlap"):
            del record[label]  # the corpus stands for the languages; the rest changes no weight
        parents = [self.teacher.fingerprint, *parent_students(recipe).values()]
        asked = Path(recipe.data_dir) / recipe.validation.questions if recipe.validation.questions else None
        questions = [hash_file(path) for path in files_of(asked, "*.jsonl*")] if asked else []
        return digest_of(record, *parents, self.data.tokens.key, *questions)

    def body_key(self, recipe: Recipe) -> str:
        """SHA-256 of what the fitted body depends on."""
        run = recipe.train
        train = [run.batch_size, run.batch_by, run.precision, run.average, run.clip, run.weight_decay]
        student = [recipe.student.layers, recipe.student.max_tokens, recipe.student.dropout]
        parts = [recipe.align.body_steps, recipe.align.body_rate, run.warmup, train, student, recipe.seed]
        return digest_of(parts, self.teacher.fingerprint, self.corpus.digest)

    def table_key(self, recipe: Recipe) -> str:
        """SHA-256 of what the solved token table depends on."""
        shares = [recipe.train.temperature, recipe.train.source_share]
        targets = "static" if solves_vectors(recipe) else "transformer"
        solve = [recipe.align.damping, recipe.align.anchor, recipe.align.iterations, recipe.align.max_rows]
        return digest_of([solve, targets, recipe.seed, shares], self.teacher.fingerprint, self.data.tokens.key)


def gather(recipe: Recipe, work: Path, *, cache: Path | None = None, progress: Progress = no_progress) -> Ingredients:
    """Make everything below `work`, or open what stands there; `cache` keeps the teacher's vectors for other runs."""
    settings = recipe.teacher
    teacher = load_teacher(
        settings.model, revision=settings.revision, data_dir=recipe.data_dir, batch_size=settings.batch_size
    )
    corpus, tokenizer, tokens = gather_texts(recipe, work, teacher=teacher, progress=progress)
    if recipe.targets.live:
        nothing = np.zeros((0, teacher.dim), dtype=np.float16)
        data = TrainingData(corpus=corpus, tokens=tokens, vectors=nothing, row_of=np.zeros(0, dtype=np.int64))
        return Ingredients(teacher=teacher, tokenizer=tokenizer, data=data)
    vectors = VectorCache(cache or work / "teacher", teacher=teacher)
    vectors.fill(corpus, progress=progress)
    data = TrainingData(corpus=corpus, tokens=tokens, vectors=vectors.vectors, row_of=vectors.rows_of(corpus))
    return Ingredients(teacher=teacher, tokenizer=tokenizer, data=data)


def gather_texts(
    recipe: Recipe, work: Path, *, teacher: Teacher | None = None, progress: Progress = no_progress
) -> tuple[Corpus, Tokenizer, TokenStore]:
    """Make corpus, vocabulary (with what it has of the teacher) and tokens below `work`, or open what stands there."""
    corpus = build_corpus(recipe, work / "corpus", progress=progress)
    refuse_overlap(corpus, recipe, progress=progress)
    tokenizer = _keep_vocabulary(corpus, recipe, work / "vocabulary.json", teacher, progress)
    edges = 2 if recipe.family == "transformer" else 0
    tokens = tokenize_corpus(
        corpus,
        tokenizer,
        work / "tokens",
        max_tokens=recipe.student.max_tokens - edges,
        split=recipe.train.split_tokens,
        prompts=student_prompts(recipe, teacher) if teacher else ("", ""),
        progress=progress,
    )
    return corpus, tokenizer, tokens


def student_prompts(recipe: Recipe, teacher: Teacher) -> tuple[str, str]:
    """Return what stands before a student's documents and queries: its live teacher's, or its start's."""
    if recipe.targets.live:
        return teacher.prompts
    if recipe.student.start and not recipe.classifier:
        return read_prompts(Path(recipe.data_dir) / recipe.student.start)
    return "", ""


def keep_solved(path: Path, solve: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what was solved into a file; of several processes the first solves what the others then open."""
    with processes().main_process_first():
        if not path.is_file():
            partial = path.with_suffix(".partial")
            save_file(solve(), partial)
            partial.rename(path)
    return load_file(path)


def solves_vectors(recipe: Recipe) -> bool:
    """Say whether the token table is solved onto the teacher's vectors, not onto its input rows."""
    return recipe.family == "static" or recipe.student.body is not None


def _keep_vocabulary(
    corpus: Corpus, recipe: Recipe, path: Path, teacher: Teacher | None, progress: Progress
) -> Tokenizer:
    """Make the vocabulary once for this corpus and these settings; one that is there already is read where it is."""
    settings = recipe.vocabulary
    if recipe.student.start or settings.folder:
        return make_vocabulary(corpus, recipe)
    words = teacher.words() if teacher and settings.teacher_words else []
    adopted = teacher.fingerprint if teacher and settings.of_teacher else ""
    key = digest_of(asdict(settings), recipe.seed, corpus.digest, adopted, *words)
    if record := kept(path, key):
        return Tokenizer.from_str(record["tokenizer"])
    if teacher and adopted:
        drawn = draw_sentences(corpus, settings, seed=recipe.seed)
        tokenizer = adopt_vocabulary(teacher.body_tokenizer, drawn, settings.size, progress=progress)
    else:
        tokenizer = make_vocabulary(corpus, recipe, words=words, progress=progress)
    keep(path, key, tokenizer=tokenizer.to_str())
    return tokenizer
