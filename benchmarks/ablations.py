"""Switch one choice of a recipe at a time, at an equal budget, and measure what it gives.

    python benchmarks/ablations.py RECIPE VARIANTS.toml --work DIR [--set KEY=VALUE]... [--data DIR] [--only NAME]...

VARIANTS.toml holds [[variant]] tables with a name and `set`, a list of KEY=VALUE. What variants share (corpus,
vocabulary, settled body, solved table) is made once, in --work. "Held out" is translation retrieval on the recipe's
own held-out sentences. Where --data holds eval/tatoeba-v1 and eval/stsb-multi-mt: Tatoeba is both directions of the
first 300 sentences of each language, STS is Spearman on the benchmark's dev split; where it holds eval/xquad-r-dev too,
questions look for their paragraph within each language and across. `teacher.model` may name a published student. Rows
are kept in --work as they come, so a stopped run goes on with what is missing. Leaves the record
`ablations-<name of the recipe>`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from records import Table, publish
from tokenizers import Tokenizer

from kdserve.cli.distill import open_published
from kdserve.datatypes import Embeddings
from kdserve.distill import prepare
from kdserve.distill.students.embedder import Student
from kdserve.evaluate import (
    evaluate_translation,
    measure_answers,
    read_questions,
    read_sts,
    read_tatoeba,
    sts_spearman,
)
from kdserve.recipe import Recipe, load_recipe

SENTENCES = 300
BATCH_SIZE = 128


class StudentInMemory:
    """A student that is not saved yet, as an Embedder."""

    fingerprint = ""

    def __init__(self, student: Student, tokenizer: Tokenizer, *, dim: int, prompts: tuple[str, str]) -> None:
        self.student, self.dim, self.prompts = student.eval(), dim, prompts
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.enable_truncation(student.max_tokens)
        self.tokenizer.enable_padding()

    def encode_document(self, texts: Sequence[str]) -> Embeddings:
        return self._encode([self.prompts[0] + text for text in texts])

    def encode_query(self, texts: Sequence[str]) -> Embeddings:
        return self._encode([self.prompts[1] + text for text in texts])

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> Embeddings:
        device = next(self.student.parameters()).device
        vectors = np.zeros((len(texts), self.dim), np.float32)
        by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        for begin in range(0, len(texts), BATCH_SIZE):
            numbers = by_length[begin : begin + BATCH_SIZE]
            batch = self.tokenizer.encode_batch([texts[n] for n in numbers], add_special_tokens=self.student.wraps)
            ids, mask = (torch.tensor([getattr(e, k) for e in batch], device=device) for k in ("ids", "attention_mask"))
            vectors[numbers] = self.student(ids, mask).vectors_BD.float().cpu().numpy()
        return vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("variants", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="the teacher's vectors, kept for other runs")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--data", type=Path, help="folder of the evaluation sets")
    parser.add_argument("--only", action="append", default=[], help="run this variant; all by default")
    arguments = parser.parse_args()
    variants = tomllib.loads(arguments.variants.read_text(encoding="utf-8"))["variant"]
    base = load_recipe(arguments.recipe, overrides=arguments.overrides)
    kept = arguments.work / f"ablations-{arguments.variants.stem}.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []
    rows = {row["variant"]: row for row in map(json.loads, lines) if row["overrides"] == arguments.overrides}
    for variant in variants:
        name = variant["name"]
        if rows.get(name, {}).get("set") != variant["set"] and name in (arguments.only or [name]):
            recipe = load_recipe(arguments.recipe, overrides=[*arguments.overrides, *variant["set"]])
            opened = open_published(recipe, arguments.work / "published")
            figures = train(opened, arguments.work, cache=arguments.cache, data=arguments.data)
            rows[name] = {"variant": name, "set": variant["set"], "overrides": arguments.overrides, **figures}
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[name]) + "\n")
            print(json.dumps(figures), name, flush=True)
    ordered = [rows[variant["name"]] for variant in variants if variant["name"] in rows]
    shared = [setting for setting in arguments.overrides if not setting.startswith("data_dir=")]  # a path tells nothing
    table = make_table(ordered, shared)
    results = {"overrides": shared, "rows": [{k: row[k] for k in row if k != "overrides"} for row in ordered]}
    publish(f"ablations-{base.name}", results, table=table)


def train(recipe: Recipe, work: Path, *, cache: Path | None, data: Path | None) -> dict[str, Any]:
    """Train one variant and return its figures."""
    shutil.rmtree(work / "train", ignore_errors=True)
    run = prepare(recipe, work, cache=cache)
    started = time.monotonic()
    accuracy = run.train().accuracy
    figures: dict[str, Any] = {
        "seconds": round(time.monotonic() - started, 1),
        "held_out": accuracy.mean,
        "worst": accuracy.worst,
        "domains": dict(accuracy.by_domain),
    }
    if data:
        embedder = StudentInMemory(run.encoder, run.tokenizer, dim=run.dim, prompts=run.prompts)
        wanted = set(recipe.languages + recipe.weak_languages)
        pairs = [
            replace(own, sources=own.sources[:SENTENCES], targets=own.targets[:SENTENCES])
            for language, own in read_tatoeba(data / "eval" / "tatoeba-v1").items()
            if not wanted or language in wanted
        ]
        (section,) = evaluate_translation(embedder, pairs)
        figures["tatoeba"] = dict(section.figures)
        similar = read_sts(data / "eval" / "stsb-multi-mt", split="dev", languages=["en", "de"])
        figures["sts"] = {language: sts_spearman(embedder, own) for language, own in similar.items()}
        if (questions := data / "eval" / "xquad-r-dev").is_dir():
            to_paragraphs, *_ = measure_answers(embedder, read_questions(questions))
            means = {"own": to_paragraphs.within, "across": to_paragraphs.asked}
            figures["search"] = {name: fmean(row.values()) for name, row in means.items()}
    return figures


def make_table(rows: Sequence[dict[str, Any]], overrides: Sequence[str]) -> Table:
    """A row for each variant, in the order of the file."""
    columns = ["variant", "held out", "lowest", "Tatoeba", "STS en", "STS de", "search, own", "across", "seconds"]
    cells = []
    for row in rows:
        tatoeba, sts = list(row.get("tatoeba", {}).values()), row.get("sts", {})
        mean = f"{100 * sum(tatoeba) / len(tatoeba):.1f}" if tatoeba else ""
        language, lowest = row["worst"]
        similar = [f"{sts[x]:.3f}" if x in sts else "" for x in ("en", "de")]
        search = [f"{100 * row['search'][name]:.1f}" if "search" in row else "" for name in ("own", "across")]
        held_out = [f"{100 * row['held_out']:.1f}", f"{100 * lowest:.1f} ({language})"] if language else ["", ""]
        cells.append([row["variant"], *held_out, mean, *similar, *search, f"{row['seconds']:.0f}"])
    note = (
        f"One choice of the recipe switched at a time; {' '.join(overrides) or 'else as it stands'}. Held out and "
        f"Tatoeba (the first {SENTENCES} sentences of each language): share of translations found (%), mean of "
        "languages and directions. STS benchmark dev: Spearman. Search: half of XQuAD-R, questions whose nearest "
        "paragraph answers them (%), within a language and across."
    )
    return Table(columns=columns, rows=cells, note=note)


if __name__ == "__main__":
    main()
