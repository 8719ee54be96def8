"""Metrics of an embedder or a classifier: one function each.

translation_accuracy   is the nearest neighbour of a sentence its translation?
sts_spearman           does cosine order sentence pairs as people do?
measure_answers        does a question find the sentence and paragraph that answer it, in every pair of languages?
retrieval              does a query find its answer, in its own language and in others?
language_bias          does a query prefer its own language in a pooled index?
measure_classification does a classifier name the right labels, and do its probabilities say how often?
measure_writing        what are translations and summaries worth, and how many are empty or go in circles?
"""

from __future__ import annotations

from kdserve.evaluate.bias import LanguageBias, language_bias
from kdserve.evaluate.classification import ClassificationFigures, calibration_error, measure_classification
from kdserve.evaluate.evaluation import (
    SampleFigures,
    Section,
    answer_sections,
    evaluate_samples,
    evaluate_sts,
    evaluate_translation,
)
from kdserve.evaluate.files import read_pairs, read_sts, read_tatoeba
from kdserve.evaluate.questions import AnswerFigures, QuestionSet, measure_answers, read_questions
from kdserve.evaluate.retrieval import Document, Query, Retrieval, retrieval
from kdserve.evaluate.similarity import StsPair, cross_lingual, spearman, sts_spearman
from kdserve.evaluate.summary import Summary, summarise
from kdserve.evaluate.translation import (
    TranslationAccuracy,
    TranslationPairs,
    find_translations,
    nearest_share,
    translation_accuracy,
)
from kdserve.evaluate.writing import WritingFigures, measure_writing
from kdserve.vectors import Remembering

__all__ = [
    "AnswerFigures",
    "ClassificationFigures",
    "Document",
    "LanguageBias",
    "Query",
    "QuestionSet",
    "Remembering",
    "Retrieval",
    "SampleFigures",
    "Section",
    "StsPair",
    "Summary",
    "TranslationAccuracy",
    "TranslationPairs",
    "WritingFigures",
    "answer_sections",
    "calibration_error",
    "cross_lingual",
    "evaluate_samples",
    "evaluate_sts",
    "evaluate_translation",
    "find_translations",
    "language_bias",
    "measure_answers",
    "measure_classification",
    "measure_writing",
    "nearest_share",
    "read_pairs",
    "read_questions",
    "read_sts",
    "read_tatoeba",
    "retrieval",
    "spearman",
    "sts_spearman",
    "summarise",
    "translation_accuracy",
]
