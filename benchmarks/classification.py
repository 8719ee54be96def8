"""Classifiers across languages from labels in English: every mode of the recipes topics and sentiment.

    python benchmarks/classification.py STUDENT --data DIR --work DIR [--cache DIR] [--tasks topics,sentiment]
        [--modes zero-shot,unsupervised,semi-supervised,supervised] [--grid] [--all-sources] [--set KEY=VALUE]

STUDENT is a student's folder; DIR holds classify/ and parallel/. For each mode the recipe's classifier is trained and
measured on the test texts of every language that the student and the task share. Sentiment has no labelled texts but
English ones: for the last two modes, lines of parallel/ whose English side is a labelled line take over its label.
--all-sources also trains on parallel text that is free for research only; --grid repeats the unsupervised mode over
temperature and alpha. Leaves the records `classification-<student>` and `classification-grid-<student>`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from records import Table, publish

from kdserve.cli.console import progress_bars
from kdserve.distill import prepare
from kdserve.distill.data.corpus import SOURCE
from kdserve.distill.data.labelled import LabelledTexts, read_labelled
from kdserve.distill.data.pairs import find_files
from kdserve.distill.prepare.classifier_ingredients import open_label_teacher, read_texts, tokenize_labelled
from kdserve.distill.run import EmbeddingRun
from kdserve.distill.students.inference import run_over
from kdserve.evaluate import ClassificationFigures, measure_classification
from kdserve.lines import read_lines
from kdserve.model_settings import read_student_settings
from kdserve.recipe import DataRecipe, Recipe, load_recipe

RECIPES = Path(__file__).parent.parent / "examples" / "recipes"
MODES = ("zero-shot", "unsupervised", "semi-supervised", "supervised")
TESTS = {
    "topics": "classify/sib200/test.{language}.tsv.gz",
    "sentiment": "classify/xed-sentiment/test.{language}.tsv.gz",
}
SETS = {"topics": "Topics: SIB-200 test", "sentiment": "Sentiment: XED test"}
TEMPERATURES, ALPHAS = (1.0, 2.0, 4.0), (0.3, 0.7, 1.0)
Figures = dict[str, ClassificationFigures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--tasks", default="topics,sentiment")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--all-sources", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    name = read_student_settings(options.student).name
    figures: dict[str, dict[str, Figures]] = {}
    for task in options.tasks.split(","):
        figures[task] = {}
        for mode in options.modes.split(","):
            trained, figures[task][mode] = run(task, options, [f"classifier.mode={mode}"])
            if "teacher" not in figures[task]:
                figures[task]["teacher"] = {SOURCE: ask_teacher(task, options.data, trained.recipe)}
            print(task, mode, means(figures[task][mode]), flush=True)
    table = mode_table(figures, name)
    record = {task: {mode: _plain(found) for mode, found in modes.items()} for task, modes in figures.items()}
    conditions = {"student": name, "all_sources": options.all_sources, "overrides": options.overrides}
    publish(f"classification-{name}", {**conditions, "tasks": record}, table=table)
    if options.grid:
        measure_grid(options, name)


def run(task: str, options: argparse.Namespace, overrides: Sequence[str]) -> tuple[EmbeddingRun, Figures]:
    """Train one classifier and measure it on every language's test texts."""
    recipe = open_recipe(task, options, overrides)
    shutil.rmtree(options.work / task / "train", ignore_errors=True)
    with progress_bars() as progress:
        trained = prepare(recipe, options.work / task, cache=options.cache, progress=progress)
        trained.train(progress=progress)
    languages = {SOURCE, *recipe.languages}
    tests = find_files(DataRecipe(path=TESTS[task]), options.data)
    return trained, {
        language: measure(trained, read_labelled(path, language=language))
        for path, language in tests
        if language in languages
    }


def open_recipe(task: str, options: argparse.Namespace, overrides: Sequence[str]) -> Recipe:
    """Read the task's recipe with this student and data; sentiment gets labels for other languages."""
    student = read_student_settings(options.student)
    settings = [
        f"data_dir={options.data.resolve()}",
        f"student.start={options.student.resolve()}",
        f"family={student.family}",
        f"student.max_tokens={student.max_tokens}",
        f"languages={json.dumps([code for code in student.languages if code != SOURCE])}",
    ]
    if task == "sentiment":
        settings.append(f"classifier.target={project_labels(options.data, options.work)}")
    recipe = load_recipe(RECIPES / f"{task}.toml", overrides=[*settings, *options.overrides, *overrides])
    if options.all_sources:
        recipe = replace(recipe, data=tuple(replace(data, exclude=()) for data in recipe.data))
    return recipe


def project_labels(data: Path, work: Path) -> str:
    """Give translations of labelled film lines the label of the line; return the files' pattern."""
    folder = work / "projected"
    pattern = str(folder.resolve() / "{language}.tsv")
    if folder.is_dir():
        return pattern
    folder.mkdir(parents=True)
    english = read_labelled(data / "classify" / "xed-sentiment" / "train.en.tsv.gz", language=SOURCE)
    label_of = dict(zip(english.texts, english.labels, strict=True))
    for path, language in find_files(DataRecipe(path="parallel/{language}-en.tsv.gz"), data):
        lines = [
            f"{label_of[source]}\t{text}"
            for source, text, origin in (line.split("\t") for _, line in read_lines(path))
            if source in label_of and origin[:8] == "opensubs"
        ]
        if lines:
            (folder / f"{language}.tsv").write_text("\n".join(["label\ttext", *lines]) + "\n", encoding="utf-8")
    return pattern


def measure(trained: EmbeddingRun, texts: LabelledTexts) -> ClassificationFigures:
    """Classify test texts and compare."""
    student = trained.student.eval().cpu()
    tokens = tokenize_labelled(trained.tokenizer, texts, trained.recipe)
    rows = np.arange(len(texts), dtype=np.int64)
    logits = run_over(student, student, tokens, rows, wrap=student.wraps)
    return measure_classification(logits.softmax(dim=-1).numpy(), texts.labels, trained.labels)


def ask_teacher(task: str, data: Path, recipe: Recipe) -> ClassificationFigures:
    """Measure the teacher on the English test texts."""
    teacher, labels = open_label_teacher(recipe, read_texts(recipe))
    texts = read_labelled(data / TESTS[task].format(language=SOURCE), language=SOURCE)
    probabilities = np.exp(teacher.score(texts.texts).astype(np.float32))
    return measure_classification(probabilities, texts.labels, labels)


def means(figures: Mapping[str, ClassificationFigures]) -> dict[str, float]:
    """Mean figures over the target languages."""
    targets = [found for language, found in figures.items() if language != SOURCE]
    names = ("accuracy", "macro_f1", "calibration_error")
    return {name: round(float(np.mean([getattr(found, name) for found in targets])), 4) for name in names if targets}


def mode_table(figures: Mapping[str, Mapping[str, Figures]], name: str) -> Table:
    rows = []
    for task, modes in figures.items():
        for mode in ("teacher", *MODES):
            if mode in modes:
                english, targets = modes[mode].get(SOURCE), means(modes[mode])
                others = [found.accuracy for language, found in modes[mode].items() if language != SOURCE]
                cells = [
                    f"{targets[key]:.3f}" if targets else "" for key in ("accuracy", "macro_f1", "calibration_error")
                ]
                worst = f"{min(others):.3f}" if others else ""
                rows.append([f"{task}, {mode}", f"{english.accuracy:.3f}" if english else "", *cells, worst])
    num = {task: len(next(iter(modes.values()))) - 1 for task, modes in figures.items()}
    tested = [f"{SETS[task]}, mean of {num[task]} languages" for task in figures]
    note = f"{name}. {'; '.join(tested)}; English apart. ECE: expected calibration error over ten bins."
    return Table(columns=["", "English", "mean accuracy", "macro-F1", "ECE", "lowest"], rows=rows, note=note)


def measure_grid(options: argparse.Namespace, name: str) -> None:
    """Repeat the unsupervised mode over temperature and alpha."""
    rows, record = [], {}
    for task in options.tasks.split(","):
        for temperature in TEMPERATURES:
            cells = []
            for alpha in ALPHAS:
                overrides = [f"classifier.temperature={temperature}", f"classifier.alpha={alpha}"]
                _, found = run(task, options, ["classifier.mode=unsupervised", *overrides])
                record[f"{task}, T {temperature}, alpha {alpha}"] = means(found)
                cells.append(f"{means(found)['accuracy']:.3f} / {means(found)['macro_f1']:.3f}")
            rows.append([f"{task}, T = {temperature:g}", *cells])
            print(rows[-1], flush=True)
    note = f"{name}, unsupervised mode: mean accuracy / macro-F1 over the target languages."
    table = Table(columns=["", *(f"alpha = {alpha:g}" for alpha in ALPHAS)], rows=rows, note=note)
    publish(f"classification-grid-{name}", {"grid": record}, table=table)


def _plain(figures: Figures) -> dict[str, dict[str, float]]:
    return {language: asdict(found) for language, found in figures.items()}


if __name__ == "__main__":
    main()
