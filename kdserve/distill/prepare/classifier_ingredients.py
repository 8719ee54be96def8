"""Ingredients of a classifier: texts, teacher, labels, and the student before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.batches import TrainingData
from kdserve.distill.data.corpus import Corpus, digest_of
from kdserve.distill.data.labelled import NO_TEXTS, LabelledTexts, choose_labels, read_source, read_target
from kdserve.distill.data.tokens import TokenStore, tokenize_texts
from kdserve.distill.hardware import best_device
from kdserve.distill.objectives.layers import LayerDistillation
from kdserve.distill.prepare.languages import language_lessons, start_language_student
from kdserve.distill.start.ingredients import gather, gather_texts
from kdserve.distill.start.student import start_layers, start_student
from kdserve.distill.students.classifier import ClassifierStudent
from kdserve.distill.students.embedder import StaticStudent, Student
from kdserve.distill.students.folder import open_student, parent_students
from kdserve.distill.students.inference import embed_texts
from kdserve.distill.tasks.classification import HardTexts, Lessons
from kdserve.distill.teachers.classifier import HeadTeacher, LabelTeacher, Scores, SequenceTeacher
from kdserve.distill.teachers.embedder import Teacher, load_teacher
from kdserve.distill.teachers.head import Head, LabelledVectors, fit_head
from kdserve.distill.training.validation import held_out_pairs
from kdserve.errors import RecipeError
from kdserve.recipe import Recipe, recipe_record


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierIngredients:
    """Ingredients of a classifier; `parents` are the fingerprints of its teacher and the student it goes on from.

    `texts` are the labelled texts by role.
    """

    tokenizer: Tokenizer
    data: TrainingData
    student: ClassifierStudent
    lessons: Lessons
    parents: Mapping[str, str]
    texts: Mapping[str, LabelledTexts] = field(default_factory=dict)
    teacher: LabelTeacher | None = None

    def run_key(self, recipe: Recipe) -> str:
        """SHA-256 of what a checkpoint depends on: recipe, teacher, labels, corpus."""
        record = recipe_record(recipe)
        del record["name"]
        texts = {role: asdict(texts) for role, texts in self.texts.items()}
        return digest_of(record, dict(self.parents), self.lessons.labels, texts, self.data.tokens.key)


def gather_classifier(
    recipe: Recipe, work: Path, *, cache: Path | None, progress: Progress = no_progress
) -> ClassifierIngredients:
    """Make everything below `work`, or open what stands there; `cache` keeps the teacher's answers for other runs."""
    settings = recipe.classifier
    assert settings is not None
    if settings.mode == "language":
        return _gather_languages(recipe, work, progress)
    texts = read_texts(recipe)
    teacher, labels = open_label_teacher(recipe, texts)
    tokenizer, data, encoder = _start_encoder(recipe, work, cache, progress)
    scores = teacher.score_sources(data.corpus, cache=cache or work / "teacher", progress=progress)
    corpus = _prefer_sure(data.corpus, scores, settings.confidence)
    data = TrainingData(corpus=corpus, tokens=data.tokens, vectors=scores, row_of=np.arange(len(scores)))
    head = _fit_student_head(recipe, encoder, tokenizer, texts, labels)
    hard = texts["labelled"] + texts["target"]
    known = teacher.score(texts["labelled"].texts)
    unknown = np.full((len(texts["target"]), len(labels)), np.nan, dtype=np.float16)
    return ClassifierIngredients(
        tokenizer=tokenizer,
        data=data,
        student=ClassifierStudent(encoder, head, head_only=settings.head_only),
        lessons=Lessons(
            labels=labels,
            held_out=held_out_pairs(corpus, recipe.validation, seed=recipe.seed),
            hard=HardTexts(
                tokens=tokenize_labelled(tokenizer, hard, recipe),
                label_N=hard.numbers(labels),
                scores_NK=np.concatenate([known, unknown]),
            ),
        ),
        parents={"teacher": teacher.fingerprint, **parent_students(recipe)},
        texts=texts,
        teacher=teacher,
    )


def start_label_layers(recipe: Recipe, ingredients: ClassifierIngredients) -> LayerDistillation | None:
    """Return the recipe's distillation of inner layers, if it has one and a teacher."""
    if not ingredients.teacher:
        return None
    return start_layers(
        recipe.layers,
        ingredients.student.encoder,
        teacher=ingredients.teacher,
        tokenizer=ingredients.tokenizer,
        corpus=ingredients.data.corpus,
        seed=recipe.seed,
    )


def tokenize_labelled(tokenizer: Tokenizer, texts: LabelledTexts, recipe: Recipe) -> TokenStore:
    """Tokenise labelled texts, cut as the corpus is."""
    edges = 2 if recipe.family == "transformer" else 0
    return tokenize_texts(tokenizer, texts.texts, max_tokens=recipe.student.max_tokens - edges)


def read_texts(recipe: Recipe) -> dict[str, LabelledTexts]:
    """Read a classifier's labelled texts, by role."""
    settings, data_dir = recipe.classifier, Path(recipe.data_dir)
    assert settings is not None
    return {
        "labelled": read_source(settings, data_dir / settings.labelled),
        "development": read_source(settings, data_dir / settings.development) if settings.development else NO_TEXTS,
        "target": read_target(settings, data_dir, languages=recipe.languages + recipe.weak_languages, seed=recipe.seed),
    }


def open_label_teacher(recipe: Recipe, texts: Mapping[str, LabelledTexts]) -> tuple[LabelTeacher, tuple[str, ...]]:
    """Open the sequence classifier, or train a head for the embedder; the labels are in the teacher's order."""
    settings, of_teacher = recipe.classifier, recipe.teacher
    assert settings is not None
    if settings.teacher:
        folder = Path(recipe.data_dir) / settings.teacher
        teacher = SequenceTeacher(folder, batch_size=of_teacher.batch_size)
        return teacher, choose_labels(settings, teacher.labels, **texts)
    labels = choose_labels(settings, (), **texts)
    embedder = load_teacher(
        of_teacher.model, revision=of_teacher.revision, data_dir=recipe.data_dir, batch_size=of_teacher.batch_size
    )
    return HeadTeacher(embedder, _fit_teacher_head(embedder, texts, labels), labels), labels


def _fit_teacher_head(embedder: Teacher, texts: Mapping[str, LabelledTexts], labels: tuple[str, ...]) -> Head:
    def embed(part: LabelledTexts) -> LabelledVectors:
        return LabelledVectors.of(embedder.encode_document(part.texts), part.numbers(labels))

    development = embed(texts["development"]) if texts["development"] else None
    return fit_head(embed(texts["labelled"]), len(labels), development=development)


def _fit_student_head(
    recipe: Recipe,
    encoder: Student,
    tokenizer: Tokenizer,
    texts: Mapping[str, LabelledTexts],
    labels: tuple[str, ...],
) -> Head:
    """Train the head on the student's own vectors of the source language: the zero-shot classifier."""
    encoder.to(best_device())

    def embed(part: LabelledTexts) -> LabelledVectors:
        tokens, numbers = tokenize_labelled(tokenizer, part, recipe), np.arange(len(part))
        vectors = embed_texts(encoder, tokens, numbers)
        return LabelledVectors(vectors_ND=vectors, label_N=torch.from_numpy(part.numbers(labels)))

    development = embed(texts["development"]) if texts["development"] else None
    return fit_head(embed(texts["labelled"]), len(labels), development=development)


def _prefer_sure(corpus: Corpus, scores_SK: Scores, confidence: float) -> Corpus:
    """Weigh each source, and its translations, by (the teacher's highest probability) ** `confidence`."""
    if not confidence:
        return corpus
    sure_S = np.exp(confidence * scores_SK.max(axis=1).astype(np.float32))
    return replace(
        corpus, weight_of=corpus.weight_of * sure_S[corpus.source_of], source_weight=corpus.source_weight * sure_S
    )


def _start_encoder(
    recipe: Recipe, work: Path, cache: Path | None, progress: Progress
) -> tuple[Tokenizer, TrainingData, Student]:
    """Open the student that the recipe starts from, or solve one as for an embedder."""
    if not recipe.student.start:
        ingredients = gather(recipe, work, cache=cache, progress=progress)
        student = start_student(recipe, ingredients, work, progress=progress)
        return ingredients.tokenizer, ingredients.data, student
    folder = Path(recipe.data_dir) / recipe.student.start
    encoder = open_student(folder, recipe.student)
    if isinstance(encoder, StaticStudent) != (recipe.family == "static"):
        raise RecipeError(f"student.start {folder} is not of family {recipe.family}; set family to the other one")
    corpus, tokenizer, tokens = gather_texts(recipe, work, progress=progress)
    return tokenizer, _unlabelled(corpus, tokens), encoder


def _gather_languages(recipe: Recipe, work: Path, progress: Progress) -> ClassifierIngredients:
    corpus, tokenizer, tokens = gather_texts(recipe, work, progress=progress)
    lessons = language_lessons(corpus, recipe.validation, seed=recipe.seed, progress=progress)
    encoder, head = start_language_student(tokenizer, len(lessons.labels), recipe.student, seed=recipe.seed)
    return ClassifierIngredients(
        tokenizer=tokenizer,
        data=_unlabelled(corpus, tokens),
        student=ClassifierStudent(encoder, head),
        lessons=lessons,
        parents={},
    )


def _unlabelled(corpus: Corpus, tokens: TokenStore) -> TrainingData:
    """Texts without anything that a teacher said of them."""
    nothing = np.zeros((0, 0), dtype=np.float16)
    return TrainingData(corpus=corpus, tokens=tokens, vectors=nothing, row_of=np.zeros(0, dtype=np.int64))
