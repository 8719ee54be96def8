"""kdserve-mini's second stage on a GPU: millions of texts, the first stage's among them.

    python models/kdserve-mini/questions.py CHECKOUTS DATA TEXTS --questions-only            # here
    python benchmarks/gpu/search_stage.py FIRST TEXTS START OUT --seconds 300                # there
    python models/kdserve-mini/second_stage.py join START STUDENT OUT --share 1.0            # here

FIRST is what `benchmarks/gpu_run.py unpack` leaves: the first stage's text as tokens, and its teacher. START is a
student's folder, or a bundle; `join` wants a folder (`kdserve reopen`). The lessons are those of `second_stage.py`; the
teacher, made neutral, and START, of what is not new to it, embed each text once, there. Nothing of the student is
trained but its layers.

Letters: N texts, B batch, R directions, D width.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from kdserve.distill.hardware import best_device
from kdserve.distill.students.embedder import Student, mean_pool
from kdserve.export.reopen import reopen_bundle
from kdserve.manifest import kind_of

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "models" / "kdserve-mini")]
from gpu_run import open_teacher  # noqa: E402
from lessons import CONTRAST, NEW, Ints, Lessons, anchor, learn, make_targets, open_layers, shifts, unit  # noqa: E402
from pieces import save_pieces  # noqa: E402
from search_texts import PackedTexts, gather  # noqa: E402

AVERAGE, DIRECTIONS = 0.998, 16
BANK = {"wiki": 8_192, "passages": 10_240, "questions": 6_144}
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def train(
    first: Path,
    texts: Path,
    start: Path,
    out: Path,
    seconds: float = 300.0,
    batch_tokens: int = 32_768,
    rate: float = 3e-4,
    most: Annotated[int, typer.Option(help="Texts of each source; 0 takes all.")] = 0,
    seed: int = 1,
) -> None:
    """Train until the seconds, preparation not counted, are over; leave the average weights in OUT, in pieces."""
    torch.backends.cuda.enable_cudnn_sdp(False)
    out.mkdir(parents=True, exist_ok=True)
    began, rng, device = time.monotonic(), np.random.default_rng(seed), torch.device(best_device())
    rows = gather(first, texts, device, most=most, rng=rng)
    say(out, began, what="gathered", texts=len(rows.lengths), tokens=len(rows.flat))
    student = open_start(start).to(device).eval()
    teacher = open_teacher(first / "teacher").body.to(device).eval()
    targets = teach(rows, teacher, student, tokens=4 * batch_tokens)
    del teacher
    lessons = Lessons(rows, targets, rows.padded, bank=BANK, tokens=batch_tokens, contrast=CONTRAST, rng=rng)
    say(out, began, what="targets", batch=lessons.batch_size, anchored=int((~rows.of(NEW)).sum()))

    def tell(step: int, losses: dict[str, float]) -> None:
        say(out, began, what="step", step=step, **losses)

    average, steps = learn(student.train(), lessons, tell, rate=rate, average=AVERAGE, seconds=seconds, every=100)
    save_pieces(average, out, "body")
    say(out, began, what="trained", steps=steps)


def open_start(start: Path) -> Student:
    """Open START, of which only layers are to learn."""
    with tempfile.TemporaryDirectory() as temporary:
        if kind_of(start) == "bundle":
            reopen_bundle(start, Path(temporary) / "student")
            start = Path(temporary) / "student"
        return open_layers(start)


def teach(texts: PackedTexts, teacher: torch.nn.Module, student: Student, *, tokens: int) -> Tensor:
    """Return what the student should say of each text, (N, D)."""
    everything, old = np.arange(len(texts.lengths)), np.flatnonzero(~texts.of(NEW))
    targets = make_targets(texts, neutral(texts, embed(texts, everything, partial(pooled, teacher), tokens=tokens)))
    anchors = embed(texts, old, lambda ids, mask: student(ids, mask).vectors_BD, tokens=tokens)
    return anchor(texts, targets, anchors)


def pooled(body: torch.nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of a body's last states, (B, D)."""
    return mean_pool(body(input_ids=ids, attention_mask=mask).last_hidden_state.float(), mask)


@torch.no_grad()
def embed(texts: PackedTexts, numbers: Ints, encode: Callable[[Tensor, Tensor], Tensor], *, tokens: int) -> Tensor:
    """Return unit vectors of these texts, and zeros for all others, (N, D)."""
    numbers = numbers[np.argsort(texts.lengths[numbers], kind="stable")]
    ends, device = np.cumsum(texts.lengths[numbers]), texts.flat.device
    found: Tensor | None = None
    for part in np.split(numbers, np.searchsorted(ends, np.arange(tokens, ends[-1], tokens))):
        if len(part):
            with torch.autocast(device.type, torch.bfloat16):
                vectors_BD = encode(*texts.padded(part))
            if found is None:
                found = torch.zeros(len(texts.lengths), vectors_BD.shape[1], device=device)
            found[torch.from_numpy(part).to(device)] = unit(vectors_BD.float())
    assert found is not None
    return found


def neutral(texts: PackedTexts, vectors_ND: Tensor) -> Tensor:
    """Project out the main directions of languages' shifts, as `kdserve neutralise` does.

    Without that the teacher ranks texts of a question's own language first, and the student learns to: it found 85.1 %
    within a language and 60.7 % across (benchmarks/LOG.md).
    """
    main_RD = torch.linalg.svd(shifts(texts, vectors_ND), full_matrices=False)[2][:DIRECTIONS]
    return unit(vectors_ND - vectors_ND @ main_RD.T @ main_RD)


def say(out: Path, began: float, **facts: object) -> None:
    """Print a line and keep it in OUT."""
    line = {"s": round(time.monotonic() - began, 1), **facts}
    text = json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()})
    print(text, flush=True)
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(text + "\n")


if __name__ == "__main__":
    app()
