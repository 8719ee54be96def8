"""Texts a second on text that was never seen before, teacher against bundle: the tokenizer remembers words, so that
repeating one list, as `kdserve bench` does, flatters it.

    python benchmarks/fresh_text.py BUNDLE TEXTS.txt[.gz] [--rounds 5]

Each round gives the teacher 200 new lines and the bundle 4,000, one thread each, in turns; prints medians and ratio.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

import torch

from kdserve import Encoder
from kdserve.datatypes import Embedder
from kdserve.distill.teachers.embedder import load_teacher
from kdserve.lines import read_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [line.strip() for _, line in read_lines(arguments.texts) if line.strip()]
    random.Random(0).shuffle(lines)
    teacher = load_teacher("all-MiniLM-L6-v2", device="cpu", batch_size=32)
    bundle = Encoder.load(arguments.bundle, num_threads=1)
    rates: dict[str, list[float]] = {"teacher": [], "bundle": []}
    for _ in range(arguments.rounds):
        for name, embedder, count in (("teacher", teacher, 200), ("bundle", bundle, 4000)):
            taken, lines = lines[:count], lines[count:]
            rates[name].append(_rate(embedder, taken))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"teacher {medians['teacher']:.0f}, bundle {medians['bundle']:.0f} texts per CPU second: ", end="")
    print(f"{medians['bundle'] / medians['teacher']:.0f} times, median of {arguments.rounds} rounds, one thread each")


def _rate(embedder: Embedder, texts: list[str]) -> float:
    started = time.process_time()
    embedder.encode_document(texts)
    return len(texts) / (time.process_time() - started)


if __name__ == "__main__":
    main()
