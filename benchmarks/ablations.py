"""Switch one choice of a recipe at a time, at an equal budget, and measure what it gives.

    python benchmarks/ablations.py RECIPE VARIANTS.toml --work DIR --out RECORD.json [--set KEY=VALUE] [--sts DIR]

VARIANTS.toml holds [[variant]] tables with a name and `set`, a list of KEY=VALUE. Accuracy is translation retrieval on
the recipe's held-out sentences; Spearman is on the STS benchmark's dev split, where --sts names its folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from kdserve.datatypes import Embeddings
from kdserve.distill.guide import start_guide
from kdserve.distill.ingredients import gather
from kdserve.distill.start import start_layers, start_student
from kdserve.distill.student import Student
from kdserve.distill.training import Trainer
from kdserve.recipe import load_recipe


class StudentInMemory:
    """A student that is not saved yet, as an Embedder."""

    fingerprint = ""

    def __init__(self, student: Student, tokenizer: Tokenizer, *, max_tokens: int, dim: int) -> None:
        self.student, self.dim = student.eval(), dim
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.enable_truncation(max_tokens)
        self.tokenizer.enable_padding()

    @torch.no_grad()
    def encode_document(self, texts: Sequence[str]) -> Embeddings:
        device, parts = next(self.student.parameters()).device, []
        for begin in range(0, len(texts), 512):
            batch = self.tokenizer.encode_batch(list(texts[begin : begin + 512]), add_special_tokens=self.student.wraps)
            ids, mask = (torch.tensor([getattr(e, k) for e in batch], device=device) for k in ("ids", "attention_mask"))
            parts.append(self.student(ids, mask).vectors_BD.float().cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    encode_query = encode_document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("variants", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="the teacher's vectors, kept for other runs")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--sts", type=Path)
    arguments = parser.parse_args()
    variants = tomllib.loads(arguments.variants.read_text(encoding="utf-8"))["variant"]
    base = load_recipe(arguments.recipe, overrides=arguments.overrides)
    made = gather(base, arguments.work, cache=arguments.cache)
    rows = []
    for variant in variants:
        recipe = load_recipe(arguments.recipe, overrides=[*arguments.overrides, *variant["set"]])
        folder = arguments.work / f"ablation-{arguments.out.stem}"
        shutil.rmtree(folder, ignore_errors=True)
        student = start_student(recipe, made, arguments.work)
        layers = start_layers(recipe, made, student)
        guide = start_guide(recipe, student, made.tokenizer, dim=made.teacher.dim)
        trainer = Trainer(recipe, made.data, student, folder, key=variant["name"], layers=layers, guide=guide)
        started = time.monotonic()
        accuracy = trainer.run()
        worst, lowest = accuracy.worst
        row = {
            "variant": variant["name"],
            "set": variant["set"],
            "seconds": round(time.monotonic() - started, 1),
            "accuracy": round(accuracy.mean, 4),
            "worst": f"{worst} {lowest:.3f}",
            "domains": dict(accuracy.by_domain),
        }
        if arguments.sts:
            row |= _sts(
                StudentInMemory(student, made.tokenizer, max_tokens=recipe.student.max_tokens, dim=made.teacher.dim),
                arguments.sts,
            )
        rows.append(row)
        print(json.dumps({k: v for k, v in row.items() if k != "domains"}), flush=True)
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _sts(embedder: StudentInMemory, folder: Path) -> dict[str, float]:
    from kdserve.evaluate import read_sts, sts_spearman

    pairs = read_sts(folder, split="dev")
    scores = {language: sts_spearman(embedder, rows) for language, rows in pairs.items()}
    others = [score for language, score in scores.items() if language != "en"]
    return {"sts_en": round(scores["en"], 4), "sts_others": round(float(np.mean(others)), 4)}


if __name__ == "__main__":
    main()
