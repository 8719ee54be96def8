"""kdserve-mini's second stage on a GPU: millions of texts, the first stage's among them.

    python models/kdserve-mini/questions.py CHECKOUTS DATA TEXTS --questions-only            # here
    python benchmarks/gpu/search_stage.py FIRST TEXTS START OUT --seconds 300                # there
    python models/kdserve-mini/second_stage.py join START STUDENT OUT --share 1.0            # here

FIRST is what `benchmarks/gpu_run.py unpack` leaves: the first stage's text as tokens, and its teacher. START is a
student's folder, or a bundle; `join` wants a folder (`kdserve reopen`). As in `second_stage.py` the targets are a
neutral teacher's vectors less what languages differ by; of text that has translations they lean on the mean of theirs,
and everyday translations keep START's own vectors, the mean over a sentence's languages. The teacher and START embed
each text once, there. Nothing of the student is trained but its layers.

Letters: N texts, B batch, K texts that a batch is ranked against, G groups of texts that say the same, A anchored
texts, R directions, D width.
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
import numpy.typing as npt
import torch
import typer
from torch import Tensor
from torch.nn import functional

from kdserve.distill.hardware import best_device
from kdserve.distill.students.embedder import mean_pool
from kdserve.distill.students.folder import open_student
from kdserve.export.reopen import reopen_bundle
from kdserve.manifest import kind_of
from kdserve.recipe import StudentRecipe

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "models" / "kdserve-mini")]
from gpu_run import open_teacher  # noqa: E402
from pieces import save_pieces  # noqa: E402
from search_texts import MOST_TOKENS, Texts, gather  # noqa: E402
from second_stage import FEW, SCALE, WARMUP, draw_batches  # noqa: E402

AVERAGE = 0.998
BANK = {"wiki": 8_192, "passages": 10_240, "questions": 6_144}
DRAWN = {"questions": 0.4, "wiki": 0.08, "everyday": 0.22, "long": 0.15, "other": 0.15}
"""Share of a batch's texts."""
PARTNERS, CONTRAST, DIRECTIONS = 0.6, 0.3, 16
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
    torch.manual_seed(seed)
    torch.backends.cuda.enable_cudnn_sdp(False)
    out.mkdir(parents=True, exist_ok=True)
    began, rng, device = time.monotonic(), np.random.default_rng(seed), torch.device(best_device())
    rows = gather(first, texts, device, most=most, rng=rng)
    say(out, began, what="gathered", texts=len(rows.lengths), tokens=len(rows.flat))
    student = open_start(start).to(device).eval()
    teacher = open_teacher(first / "teacher").body.to(device).eval()
    targets = teach(rows, teacher, student, tokens=4 * batch_tokens)
    lessons = Lessons(rows, targets, batch_tokens=batch_tokens, rng=rng)
    say(out, began, what="targets", batch=lessons.batch_size, anchored=len(anchored_of(rows)))
    trained = {name: value for name, value in student.named_parameters() if value.requires_grad}
    average = {name: value.detach().clone() for name, value in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    began_steps, totals = time.monotonic(), torch.zeros(3, device=device)
    student.train()
    for step, batch in enumerate(draw_batches(lessons.cumulative, rows.lengths, lessons.batch_size, rng), start=1):
        spent = (time.monotonic() - began_steps) / seconds
        if spent >= 1:
            break
        optimizer.param_groups[0]["lr"] = rate * min((spent + 0.001) / WARMUP, (1 - spent) / (1 - WARMUP))
        losses = lessons.losses(student, batch)
        optimizer.zero_grad(set_to_none=True)
        (5.0 * losses[0] + losses[1] + CONTRAST * losses[2]).backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        decay = min(AVERAGE, step / (9 + step))
        torch._foreach_lerp_(list(average.values()), [value.detach() for value in trained.values()], 1 - decay)
        totals += losses.detach()
        if step % 100 == 0:
            cosine, ranking, contrast = (totals / 100).tolist()
            say(out, began, what="step", step=step, cosine=cosine, ranking=ranking, contrast=contrast)
            totals.zero_()
    save_pieces(average, out, "body")
    say(out, began, what="trained", steps=step - 1)


def open_start(start: Path) -> torch.nn.Module:
    """Open START, of which only layers are to learn."""
    with tempfile.TemporaryDirectory() as temporary:
        if kind_of(start) == "bundle":
            reopen_bundle(start, Path(temporary) / "student")
            start = Path(temporary) / "student"
        student = open_student(start, StudentRecipe(max_tokens=MOST_TOKENS, table_bits=4))
    for module in (student.body.embeddings, student.dense):
        module.requires_grad_(requires_grad=False)
    student.table.requires_grad_(requires_grad=False)
    return student


def teach(texts: Texts, teacher: torch.nn.Module, student: torch.nn.Module, *, tokens: int) -> Tensor:
    """Return what the student should say of each text, (N, D)."""
    vectors = embed(texts, np.arange(len(texts.lengths)), partial(pooled, teacher), tokens=tokens)
    targets = make_targets(texts, neutral(texts, vectors))
    anchored = anchored_of(texts)
    anchors = embed(texts, anchored, lambda ids, mask: student(ids, mask).vectors_BD, tokens=tokens)
    places = torch.from_numpy(anchored).to(targets.device)
    targets[places] = make_anchors(texts, anchored, anchors, mean_D=targets[places].mean(dim=0))
    return targets


def anchored_of(texts: Texts) -> npt.NDArray[np.int64]:
    """Return the numbers of everyday texts that have translations."""
    return np.flatnonzero(texts.everyday & (texts.group >= 0))


def pooled(body: torch.nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of a body's last states, (B, D)."""
    return mean_pool(body(input_ids=ids, attention_mask=mask).last_hidden_state.float(), mask)


@torch.no_grad()
def embed(
    texts: Texts, numbers: npt.NDArray[np.int64], encode: Callable[[Tensor, Tensor], Tensor], *, tokens: int
) -> Tensor:
    """Return unit vectors of these texts, (len(numbers), D)."""
    order = np.argsort(texts.lengths[numbers], kind="stable")
    ends, device = np.cumsum(texts.lengths[numbers][order]), texts.flat.device
    found: Tensor | None = None
    for part in np.split(order, np.searchsorted(ends, np.arange(tokens, ends[-1], tokens))):
        if len(part):
            with torch.autocast(device.type, torch.bfloat16):
                vectors = encode(*texts.padded(numbers[part]))
            if found is None:
                found = torch.zeros(len(numbers), vectors.shape[1], device=device)
            found[torch.from_numpy(part).to(device)] = functional.normalize(vectors.float(), dim=-1)
    assert found is not None
    return found


def make_targets(texts: Texts, vectors_ND: Tensor) -> Tensor:
    """Take each language's shift off; a text that has translations in its role leans on the mean of theirs."""
    places_N = torch.from_numpy(place_of(texts)).to(vectors_ND.device)
    own_ND = functional.normalize(vectors_ND - shifts(texts, vectors_ND)[places_N], dim=-1)
    key = texts.group * 2 + texts.query
    places = np.flatnonzero(texts.group >= 0)
    index = torch.from_numpy(np.unique(key[places], return_inverse=True)[1]).to(own_ND.device)
    at = torch.from_numpy(places).to(own_ND.device)
    sums_GD = torch.zeros(int(index.max()) + 1, own_ND.shape[1], device=own_ND.device).index_add_(0, index, own_ND[at])
    counts_G = torch.bincount(index)
    others = functional.normalize(sums_GD[index] - own_ND[at], dim=-1)
    share = torch.where(counts_G[index] > 1, PARTNERS, 0.0)[:, None]
    targets_ND = own_ND.clone()
    targets_ND[at] = functional.normalize((1 - share) * own_ND[at] + share * others, dim=-1)
    return targets_ND


def neutral(texts: Texts, vectors_ND: Tensor) -> Tensor:
    """Project out the main directions of languages' shifts, as `kdserve neutralise` does.

    Without that the teacher ranks texts of a question's own language first, and the student learns to: it found 85.1 %
    within a language and 60.7 % across (benchmarks/LOG.md).
    """
    main_RD = torch.linalg.svd(shifts(texts, vectors_ND), full_matrices=False)[2][:DIRECTIONS]
    return functional.normalize(vectors_ND - vectors_ND @ main_RD.T @ main_RD, dim=-1)


def shifts(texts: Texts, vectors_ND: Tensor) -> Tensor:
    """Return what translations into a language differ by from English on average: (2 languages, D), by `place_of`."""
    device, english = vectors_ND.device, (texts.language == 0) & (texts.group >= 0)
    key = texts.group * 2 + texts.query
    found, first = np.unique(key[english], return_index=True)
    source = np.flatnonzero(english)[first]
    other = np.flatnonzero((texts.language > 0) & np.isin(key, found) & (texts.group >= 0))
    partner = source[np.searchsorted(found, key[other])]
    at, its, place = (torch.from_numpy(one).to(device) for one in (other, partner, place_of(texts)[other]))
    slots = 2 * (int(texts.language.max()) + 1)
    sums = torch.zeros(slots, vectors_ND.shape[1], device=device).index_add_(0, place, vectors_ND[at] - vectors_ND[its])
    counts = torch.bincount(place, minlength=slots)[:, None].float()
    means = sums / counts.clamp_min(1)
    crossed = means.view(-1, 2, means.shape[1]).flip(1).reshape_as(means)
    crossed = torch.where(counts.view(-1, 2, 1).flip(1).reshape_as(counts) > 0, crossed, means)
    return (counts * means + FEW * crossed) / (counts + FEW)


def place_of(texts: Texts) -> npt.NDArray[np.int64]:
    """Return a number for each text's language and role."""
    return texts.language * 2 + texts.query


def make_anchors(texts: Texts, anchored: npt.NDArray[np.int64], vectors_AD: Tensor, *, mean_D: Tensor) -> Tensor:
    """Return START's vectors of anchored texts, moved to this mean: each sentence's over its languages."""
    moved = vectors_AD + mean_D - vectors_AD.mean(dim=0)
    index = torch.from_numpy(np.unique(texts.group[anchored], return_inverse=True)[1]).to(moved.device)
    sums = torch.zeros(int(index.max()) + 1, moved.shape[1], device=moved.device).index_add_(0, index, moved)
    return functional.normalize(sums, dim=-1)[index]


class Lessons:
    """Texts, what the student should say of them, and batches of them."""

    def __init__(self, texts: Texts, targets: Tensor, *, batch_tokens: int, rng: np.random.Generator) -> None:
        self.texts, self.targets, self.rng = texts, targets, rng
        device = targets.device
        self.query = torch.from_numpy(texts.query).to(device)
        self.group = torch.from_numpy(texts.group).to(device)
        self.means = torch.stack([targets[self.query == role].mean(dim=0) for role in (False, True)])
        free = ~texts.everyday | (texts.group < 0)
        kinds = {
            "questions": texts.query & free,
            "wiki": texts.wiki & ~texts.query & free,
            "everyday": ~free,
            "long": ~texts.query & free & ~texts.wiki & (texts.lengths > 64),
            "other": ~texts.query & free & ~texts.wiki & (texts.lengths <= 64),
        }
        banks = {"wiki": kinds["wiki"], "passages": ~texts.query, "questions": texts.query}
        if empty := [name for name, found in banks.items() if not found.any()]:
            raise SystemExit(f"no {' and no '.join(empty)} among the texts; draw TEXTS from more of the data sets")
        self.bank = {name: torch.from_numpy(np.flatnonzero(found)).to(device) for name, found in banks.items()}
        weights = np.zeros(len(texts.lengths))
        rarity = np.bincount(texts.language).clip(min=1)[texts.language] ** -0.3
        for name, found in kinds.items():
            weights[found] = DRAWN[name] * rarity[found] / max(rarity[found].sum(), 1e-9)
        weights /= weights.sum()
        self.cumulative = np.cumsum(weights)
        self.batch_size = max(8, int(batch_tokens / (weights * texts.lengths).sum()))

    def losses(self, student: torch.nn.Module, numbers: npt.NDArray[np.int64]) -> Tensor:
        """Return three losses.

        They are 1 - cosine to the targets (means taken off), how the targets rank other texts beside these, and how a
        text that has translations finds its target among these and others.
        """
        device = self.targets.device
        texts = torch.from_numpy(numbers).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            vectors_BD = student(*self.texts.padded(numbers)).vectors_BD
        vectors_BD, targets_BD = vectors_BD.float(), self.targets[texts]
        means_BD = self.means[self.query[texts].long()]
        cosine = 1 - functional.cosine_similarity(vectors_BD - means_BD, targets_BD - means_BD).mean()
        drawn = [bank[torch.randint(len(bank), (BANK[name],), device=device)] for name, bank in self.bank.items()]
        others = torch.cat(drawn)
        keys_KD = self.targets[others]
        same_BK = others[None] == texts[:, None]
        logits_BK, wanted_BK = (SCALE * one @ keys_KD.T for one in (vectors_BD, targets_BD))
        shares = [one.masked_fill(same_BK, -1e4).log_softmax(dim=-1) for one in (logits_BK, wanted_BK)]
        ranking = functional.kl_div(*shares, reduction="batchmean", log_target=True)
        group_B, group_K = self.group[texts], self.group[others]
        close_BB = (group_B[:, None] == group_B[None]).fill_diagonal_(False)
        logits = 50.0 * torch.cat([vectors_BD @ targets_BD.T, logits_BK / SCALE], dim=1)
        logits = logits.masked_fill(torch.cat([close_BB, group_B[:, None] == group_K[None]], dim=1), -1e4)
        each = functional.cross_entropy(logits, torch.arange(len(texts), device=device), reduction="none")
        paired = (group_B >= 0).float()
        return torch.stack([cosine, ranking, (each * paired).sum() / paired.sum().clamp_min(1)])


def say(out: Path, began: float, **facts: object) -> None:
    """Print a line and keep it in OUT."""
    line = {"s": round(time.monotonic() - began, 1), **facts}
    text = json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()})
    print(text, flush=True)
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(text + "\n")


if __name__ == "__main__":
    app()
