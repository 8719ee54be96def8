"""Sentences a second of kdserve's training against sentence-transformers' trainer, for the same work on the CPU.

    python benchmarks/distillation_speed.py [--data DIR] [--languages de,fr,ru] [--pairs 20000] [--steps 60]

Same start (three of the teacher's layers under an aligned token table), same pairs, same batch size, AdamW, equal
threads, in bf16 and in fp32; each run in a fresh process, in turns. The objective is the cosine to the teacher here and
the mean squared error there, which is the same between unit vectors: |a - b|² = 2 - 2 cos. A first run needs the
teacher's vectors too: kdserve makes them under bf16 and keeps them on disk; the other side encodes in every run, as its
own multilingual example does. Without --data the sample corpus is used.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from records import Table, write_record

from kdserve.bench.machine import describe_machine
from kdserve.bench.table import gain_text
from kdserve.bench.threads import thread_environment
from kdserve.cli.console import progress_bars
from kdserve.lines import read_lines

ENGINES = ("kdserve", "sentence-transformers")
BATCH = 128
WARM_UP = 20
RECIPE = """
name = "speed"
family = "transformer"
[[data]]
path = "{path}"
{columns}
[vocabulary]
size = {size}
[student]
layers = [0, 2, 5]
[align]
iterations = 5
[objective]
cosine = 1.0
contrastive = 0.0
[train]
batch_size = {batch}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with parallel/<language>-en.tsv.gz")
    parser.add_argument("--languages", default="de,fr,ru")
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=60, help="a multiple of 20; the first 20 are not timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("out/distillation-speed"))
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--precisions", default="bf16,fp32")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(run_side(arguments.side, arguments)))
        return
    write_recipe(arguments)
    call("prepare", arguments)
    sides = [f"{engine} {precision}" for precision in arguments.precisions.split(",") for engine in ENGINES]
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    teacher = []
    with progress_bars() as progress:
        for turn in range(arguments.rounds):
            for step in range(len(sides)):
                side = sides[(turn + step) % len(sides)]
                found[side].append(call(side, arguments))
                progress("training in turns", turn * len(sides) + step + 1, arguments.rounds * len(sides))
            teacher.append(call("teacher", arguments))
    report(found, teacher, arguments)


def write_recipe(arguments: argparse.Namespace) -> None:
    """Draw the pairs, once, and point a recipe at them."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    path, columns = "sample", ""
    if arguments.data:
        path, columns = "pairs.tsv", 'language_column = "2"'
        languages, rows = arguments.languages.split(","), []
        for language in languages:
            pairs = read_lines(arguments.data / "parallel" / f"{language}-en.tsv.gz")
            lines = [[*line.split("\t")[:2], language] for _, line in pairs]
            rows += random.Random(1).sample(lines, min(len(lines), arguments.pairs // len(languages)))
        with (arguments.work / path).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None).writerows(
                rows
            )
    text = RECIPE.format(path=path, columns=columns, batch=BATCH, size=16_000 if arguments.data else 5_000)
    (arguments.work / "recipe.toml").write_text(text, encoding="utf-8")


def call(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one side in a fresh process."""
    options = {"--side": side, "--work": arguments.work, "--steps": arguments.steps, "--threads": arguments.threads}
    done = subprocess.run(
        [sys.executable, __file__, *(str(part) for option in options.items() for part in option)],
        env=os.environ | thread_environment(arguments.threads) | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{side} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def run_side(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a fresh process does."""
    import torch

    torch.set_num_threads(arguments.threads)
    work = arguments.work
    if side == "prepare":
        return make_start(work)
    if side == "teacher":
        return time_teacher(work)
    train = train_kdserve if side.startswith("kdserve") else train_sentence_transformers
    lap = Lap()
    train(work, lap, steps=arguments.steps, precision=side.split()[-1])
    texts = (arguments.steps - WARM_UP) * BATCH
    return {
        "texts_per_s": texts / lap.wall_s,
        "texts_per_cpu_s": texts / lap.cpu_s,
        "peak_bytes": peak_bytes(),
    }


class Lap:
    """Wall and CPU time from the end of the warm-up to the last step."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def step(self, done: int, total: int) -> None:
        now = time.perf_counter(), time.process_time()
        if done == WARM_UP:
            self._start = now
        elif done == total:
            self.wall_s, self.cpu_s = now[0] - self._start[0], now[1] - self._start[1]


def make_start(work: Path) -> dict[str, Any]:
    """Corpus, vocabulary, aligned table, teacher vectors; the same start as a folder for the other side."""
    from sentence_transformers import SentenceTransformer

    from kdserve.distill import prepare
    from kdserve.recipe import load_recipe

    recipe = load_recipe(work / "recipe.toml")
    run = prepare(recipe, work)
    start, body = work / "start", work / "body"
    if not start.is_dir():
        modules = run.encoder.modules_for_saving(run.tokenizer, body, max_tokens=recipe.student.max_tokens)
        SentenceTransformer(modules=modules, device="cpu").save(str(start), create_model_card=False)
    return {"texts": len(run.data.corpus.source_of) + len(run.data.corpus.sources)}


def train_kdserve(work: Path, lap: Lap, *, steps: int, precision: str) -> None:
    """kdserve's loop."""
    from kdserve.distill import prepare
    from kdserve.recipe import load_recipe

    overrides = [f"train.precision={precision}", f"train.steps={steps}", f"train.evaluate_every={steps}"]
    recipe = load_recipe(work / "recipe.toml", overrides=[*overrides, "validation.max_pairs=8"])
    shutil.rmtree(work / "train", ignore_errors=True)
    run = prepare(recipe, work)
    run.train(progress=lambda what, done, total: lap.step(done, total) if what == "training" else None)


def train_sentence_transformers(work: Path, lap: Lap, *, steps: int, precision: str) -> None:
    """The same texts, vectors and objective through SentenceTransformerTrainer."""
    import numpy as np
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MSELoss
    from transformers import TrainerCallback, TrainerState

    from kdserve.distill.data.sampling import make_sampler
    from kdserve.distill.start.ingredients import gather
    from kdserve.recipe import load_recipe

    recipe = load_recipe(work / "recipe.toml")
    made = gather(recipe, work)
    corpus, num_pairs = made.corpus, len(made.corpus.source_of)
    sampler = make_sampler(corpus, made.data.tokens.lengths, recipe.train, seed=recipe.seed)
    drawn = [next(batches) for batches in [sampler.batches(start=0, stride=1, offset=0)] for _ in range(steps)]
    texts = np.random.default_rng(1).permutation(np.concatenate(drawn))  # its loader shuffles, ours sorts by length
    is_source = texts >= num_pairs
    target = np.where(is_source, texts - num_pairs, corpus.source_of[texts.clip(max=num_pairs - 1)])
    sentences = [
        corpus.sources.select([text - num_pairs])[0] if source else corpus.translations.select([text])[0]
        for text, source in zip(texts.tolist(), is_source, strict=True)
    ]
    vectors = made.data.vectors[made.data.row_of[target]].astype(np.float32)
    data = Dataset.from_dict({"sentence": sentences, "label": list(vectors)})
    model = SentenceTransformer(str(work / "start"), device="cpu")
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(work / "other"),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=recipe.train.body_rate,
        bf16=precision == "bf16",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        optim="adamw_torch_fused",
        dataloader_pin_memory=False,
    )

    class Laps(TrainerCallback):
        def on_step_end(self, _args: object, state: TrainerState, _control: object, **_: object) -> None:
            lap.step(state.global_step, steps)

    trainer = SentenceTransformerTrainer(
        model=model, args=settings, train_dataset=data, loss=MSELoss(model), callbacks=[Laps()]
    )
    trainer.train()


def time_teacher(work: Path, *, most: int = 512) -> dict[str, Any]:
    """Sentences a second of the teacher: as kdserve's cache is filled, and as SentenceTransformer.encode by default."""
    from kdserve.distill.start.ingredients import gather
    from kdserve.recipe import load_recipe

    made = gather(load_recipe(work / "recipe.toml"), work)
    texts = made.corpus.sources.select(range(0, len(made.corpus.sources), max(1, len(made.corpus.sources) // most)))
    made.teacher.encode_fast(texts[:64])
    begin = time.process_time()
    made.teacher.encode_fast(texts)
    ours = time.process_time() - begin
    begin = time.process_time()
    made.teacher.model.encode(texts, show_progress_bar=False)
    theirs = time.process_time() - begin
    num_sources, num_texts = len(made.corpus.sources), len(made.corpus.sources) + len(made.corpus.source_of)
    return {
        "kdserve": len(texts) / ours,
        "sentence-transformers": len(texts) / theirs,
        "sources": num_sources,
        "texts": num_texts,
    }


def peak_bytes() -> int | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:"))


def report(
    found: dict[str, list[dict[str, Any]]], teacher: list[dict[str, Any]], arguments: argparse.Namespace
) -> None:
    """The loop alone, and a whole epoch with the teacher's part in it: the first one, and with the cache warm.

    Rates are texts a CPU second: on one thread the same as texts a second where nobody else uses the machine.
    """
    speeds = {side: median(run["texts_per_cpu_s"] for run in runs) for side, runs in found.items()}
    sources, texts = teacher[0]["sources"], teacher[0]["texts"]
    embedding = {side: sources / median(run[side] for run in teacher) for side in ENGINES}
    rows = []
    for side in found:
        engine, precision = side.split()
        own = epochs(texts, speeds[side], embedding[engine], caches=engine == "kdserve")
        other = f"sentence-transformers {precision}"
        theirs = epochs(texts, speeds[other], embedding["sentence-transformers"], caches=False)
        gains = [
            f" ({gain_text(mine / base)})" if engine == "kdserve" else ""
            for mine, base in zip(own, theirs, strict=True)
        ]
        cells = [f"{rate:.0f}{gain}" for rate, gain in zip(own, gains, strict=True)]
        rows.append([side, *cells, f"{median(run['peak_bytes'] or 0 for run in found[side]) / 1e6:.0f}"])
    machine = describe_machine()
    data = "sample corpus" if not arguments.data else f"{arguments.pairs} pairs of {arguments.languages}"
    note = (
        f"{machine.cpu}, {arguments.threads} thread(s), {arguments.rounds} rounds in turns of {arguments.steps} steps "
        f"at batch {BATCH}; {data}: {texts} texts, {sources} of them in the teacher's language; load average "
        f"{machine.load_average}; {machine.date}. In brackets: times sentence-transformers at the same precision."
    )
    columns = [
        "texts per CPU second",
        "training loop",
        "first epoch, teacher included",
        "next run, teacher cached",
        "peak memory, MB",
    ]
    table = Table(columns=columns, rows=rows, note=note)
    print(table.markdown())
    record = {"training": found, "teacher": teacher}
    if not arguments.no_record:
        write_record("distillation-speed", record, table=table, machine=machine)
    print(json.dumps(record, sort_keys=True))


def epochs(texts: int, rate: float, embedding_s: float, *, caches: bool) -> tuple[float, float, float]:
    """Texts a second of the loop, of the first epoch with the teacher's vectors to be made, of one in a later run."""
    loop_s = texts / rate
    return rate, texts / (loop_s + embedding_s), texts / (loop_s + (0 if caches else embedding_s))


if __name__ == "__main__":
    main()
