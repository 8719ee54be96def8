"""kdserve-static: a table that starts as a teacher's vectors of its tokens and learns to find translations, answers.

    python models/kdserve-mini/questions.py CHECKOUTS DATA TEXTS
    python models/kdserve-static/learn.py gather CHECKOUTS DATA TEXTS WORK
    python models/kdserve-static/learn.py teach DATA WORK
    python models/kdserve-static/learn.py train DATA WORK TABLE
    python models/kdserve-static/learn.py write DATA WORK STUDENT TABLE ...

The pairs and the vocabulary are those of recipe.toml beside this; `gather` adds the questions with paragraphs that
kdserve-mini's card names. `teach` embeds tokens, English sources and questions with a published bundle, and goes on
where it was stopped. `train` takes one core. `write` makes a student of the mean of tables, for `kdserve export`.

Letters: N texts, V tokens of the vocabulary, R rows that a step touches, D width.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from draws import Drawn, Draws, Rows
from safetensors.torch import load_file, save_file
from targets import Targets, embed, start_table
from texts import Gathered, gather, open_gathered, open_recipe
from torch import Tensor
from torch.nn import functional

from kdserve.distill.students.embedder import StaticStudent, save_student
from kdserve.distill.students.grid import snap
from kdserve.manifest import read_manifest, write_manifest
from kdserve.model_settings import StudentSettings
from kdserve.recipe import recipe_record
from kdserve.runtime.published import find_bundle
from kdserve.staging import staged_folder

MIXED, ALIKE, SPANS, ANSWERS, TAUGHT = 1_024, 512, 384, 512, 1_024
"""Texts of a step: pairs of all languages, of one (twice), made questions (twice), questions, texts with targets."""
WEIGHTS = {"mixed": 1.0, "alike": 0.5, "spans": 1.0, "answers": 1.0, "cosine": 2.0}
SCALE, DROPPED, RATE, WARMUP = 20.0, 0.1, 1e-2, 0.05
BETAS, EVERY = (0.9, 0.98), 50
TEACHER = "kdserve-mini"
app = typer.Typer(add_completion=False, help=__doc__)


@app.command(name="gather")
def gather_texts(checkouts: Path, data: Path, texts: Path, work: Path) -> None:
    """Write pairs, questions, vocabulary and tokens into WORK."""
    gather(checkouts, data, texts, work)


@app.command()
def teach(
    data: Path,
    work: Path,
    teacher: str = TEACHER,
    sources: Annotated[int, typer.Option(help="English sources to embed; short ones come first.")] = 192_512,
) -> None:
    """Embed tokens, questions and sources into WORK, in half precision."""
    embed(open_gathered(data, work), work, teacher=teacher, sources=sources)


@app.command()
def train(
    data: Path,
    work: Path,
    table: Path,
    steps: int = 2_000,
    seconds: float = 3_600.0,
    seed: int = 1,
    start: Annotated[Path | None, typer.Option(help="A table to go on from.")] = None,
    answers: Annotated[float, typer.Option(help="Weight of answers and of made questions.")] = 1.0,
    rate: Annotated[float, typer.Option(help="Of learning, at its highest.")] = RATE,
    gain: Annotated[float, typer.Option(help="So many times the rate is that of how much words count.")] = 1.0,
) -> None:
    """Train a table on one core until the steps or the seconds are over, and write it (safetensors)."""
    torch.set_num_threads(1)
    gathered, rng = open_gathered(data, work), np.random.default_rng(seed)
    draws, targets = Draws(gathered, open_recipe(data).train, rng), Targets(gathered, work)
    learnt = Table(load_file(start)["table"] if start else start_table(gathered.tokenizer, work))
    weights = {name: weight * (answers if name in ("spans", "answers") else 1.0) for name, weight in WEIGHTS.items()}
    began, totals = time.monotonic(), dict.fromkeys(weights, 0.0)
    for step in range(steps):
        spent = max((step + 1) / steps, (time.monotonic() - began) / seconds)
        if spent >= 1:
            break
        losses = step_losses(learnt, draws, targets, rng)
        torch.stack([weights[name] * loss for name, loss in losses.items()]).sum().backward()
        learnt.step(rate * min(spent / WARMUP, (1 - spent) / (1 - WARMUP)), gain=gain)
        for name, loss in losses.items():
            totals[name] += float(loss.detach())
        if (step + 1) % EVERY == 0:
            means = {name: round(total / EVERY, 3) for name, total in totals.items()}
            print(step + 1, round(time.monotonic() - began), json.dumps(means), flush=True)
            totals = dict.fromkeys(weights, 0.0)
        if (step + 1) % (5 * EVERY) == 0:
            print(json.dumps(find_answers(learnt.values, gathered)), flush=True)
            save_file({"table": learnt.values}, table)
    save_file({"table": learnt.values}, table)


def step_losses(table: Table, draws: Draws, targets: Targets, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return the losses of a step: how pairs find each other, and 1 - cosine to the teacher's vectors."""
    drawn = [("mixed", draws.translations(MIXED, mixed=True))]
    drawn += [("alike", draws.translations(ALIKE, mixed=False)) for _ in range(2)]
    drawn += [("spans", draws.spans(SPANS)) for _ in range(2)]
    drawn += [("answers", draws.answers(ANSWERS))]
    texts, targets_ND = targets.draw(TAUGHT, draws)
    rows = [side for _, one in drawn for side in (one.first, one.second)]
    vectors = table.embed([drop(one, rng) for one in [*rows, draws.rows(texts)]])
    losses = dict.fromkeys(WEIGHTS, torch.zeros(()))
    for number, (name, one) in enumerate(drawn):
        losses[name] = losses[name] + find(vectors[2 * number], vectors[2 * number + 1], one)
    losses["cosine"] = (1 - (vectors[-1] * targets_ND).sum(dim=-1)).mean()
    return losses


def find(first_ND: Tensor, second_ND: Tensor, drawn: Drawn) -> Tensor:
    """Return the cross-entropy of each text's partner among the others, both ways, but for those that say the same."""
    keys_N = torch.from_numpy(drawn.keys)
    same_NN = (keys_N[:, None] == keys_N[None]).fill_diagonal_(fill_value=False)
    scores_NN = (SCALE * first_ND @ second_ND.T).masked_fill(same_NN, -1e4)
    right_N = torch.arange(len(keys_N))
    return 0.5 * (functional.cross_entropy(scores_NN, right_N) + functional.cross_entropy(scores_NN.T, right_N))


def drop(rows: Rows, rng: np.random.Generator) -> Rows:
    """Hide some tokens, but not all of a text."""
    kept, row = rng.random(len(rows.ids)) >= DROPPED, np.repeat(np.arange(len(rows.lengths)), rows.lengths)
    kept |= np.bincount(row[kept], minlength=len(rows.lengths))[row] == 0
    return Rows(ids=rows.ids[kept], lengths=np.bincount(row[kept], minlength=len(rows.lengths)))


class Table:
    """A token table (V, D) of which each step reads, and changes, some rows.

    A row is a direction times e to the power of its gain: how much a word counts is learnt by a rate of its own.
    """

    def __init__(self, values_VD: Tensor) -> None:
        self.rows, self.gains = Learnt(values_VD.clone()), Learnt(torch.zeros(len(values_VD), 1))

    @property
    def values(self) -> Tensor:
        """The table, (V, D)."""
        return self.rows.values * self.gains.values.exp()

    def embed(self, parts: list[Rows]) -> list[Tensor]:
        """Return unit vectors (N, D) of each part's texts; `step` then changes their rows."""
        ids, lengths = (np.concatenate([getattr(one, name) for one in parts]) for name in ("ids", "lengths"))
        at_R, places = (torch.from_numpy(one) for one in np.unique(ids.astype(np.int64), return_inverse=True))
        starts = torch.from_numpy(np.cumsum(lengths) - lengths)
        rows_RD = self.rows.take(at_R) * self.gains.take(at_R).exp()
        means_ND = functional.embedding_bag(places, rows_RD, starts, mode="mean")
        return list(functional.normalize(means_ND, dim=-1).split([len(one.lengths) for one in parts]))

    def step(self, rate: float, *, gain: float = 1.0) -> None:
        """Change the rows that were read last, by their gradient."""
        self.rows.step(rate)
        self.gains.step(gain * rate)


class Learnt:
    """Rows of numbers, (V, D), and Adam for those that were taken last: one second moment a row."""

    def __init__(self, values_VD: Tensor) -> None:
        self.values, self.first = values_VD, torch.zeros_like(values_VD)
        self.second, self.seen = torch.zeros(len(values_VD), 1), torch.zeros(len(values_VD), 1)

    def take(self, at_R: Tensor) -> Tensor:
        """Return some rows, (R, D), as a leaf."""
        self.at_R, self.taken_RD = at_R, self.values[at_R].requires_grad_()
        return self.taken_RD

    def step(self, rate: float) -> None:
        """Change these rows by their gradient."""
        at_R, gradient_RD = self.at_R, self.taken_RD.grad
        assert gradient_RD is not None
        first_RD = self.first[at_R].lerp_(gradient_RD, 1 - BETAS[0])
        second_R1 = self.second[at_R].lerp_(gradient_RD.square().mean(dim=1, keepdim=True), 1 - BETAS[1])
        seen_R1 = self.seen[at_R] + 1
        self.first[at_R], self.second[at_R], self.seen[at_R] = first_RD, second_R1, seen_R1
        deviation_R1 = (second_R1 / (1 - BETAS[1] ** seen_R1)).sqrt() + 1e-8
        self.values[at_R] = self.taken_RD.detach() - rate * first_RD / (1 - BETAS[0] ** seen_R1) / deviation_R1


@torch.no_grad()
def find_answers(table_VD: Tensor, gathered: Gathered, *, most: int = 400) -> dict[str, float]:
    """Return the share of held-out questions, in %, that find their paragraph among up to `most` of their language."""
    table, answers, found = Table(snap(table_VD, bits=4)), gathered.answers, {}
    for language in np.unique(answers.language):
        asked = np.flatnonzero(answers.held_out & (answers.language == language))
        paragraphs = np.unique(answers.paragraph[asked])[:most]
        asked = asked[np.isin(answers.paragraph[asked], paragraphs)]
        rows = [
            gathered.tokens.ragged(numbers)
            for numbers in (gathered.first_question + asked, gathered.first_paragraph + paragraphs)
        ]
        asked_ND, theirs_ND = table.embed([Rows(ids=ids, lengths=lengths) for ids, lengths in rows])
        nearest = paragraphs[(asked_ND @ theirs_ND.T).argmax(dim=1).numpy()]
        found[str(language)] = round(100 * float((nearest == answers.paragraph[asked]).mean()), 1)
    return found


@app.command()
def write(data: Path, work: Path, student: Path, tables: list[Path], teacher: str = TEACHER) -> None:
    """Write STUDENT: the mean of the tables, with the vocabulary of WORK."""
    recipe, gathered = open_recipe(data), open_gathered(data, work)
    mean_VD = torch.stack([load_file(table)["table"] for table in tables]).mean(dim=0)
    with staged_folder(student) as folder:
        model = StaticStudent(mean_VD, recipe.student)
        save_student(model, gathered.tokenizer, folder, max_tokens=recipe.student.max_tokens)
        write_manifest(
            folder,
            kind="student",
            parents={"teacher": read_manifest(find_bundle(teacher), kind="bundle").fingerprint},
            settings=StudentSettings(
                name=recipe.name,
                family="static",
                dim=mean_VD.shape[1],
                max_tokens=recipe.student.max_tokens,
                languages=tuple(sorted({"en", *recipe.languages})),
                weak_languages=(),
                table_bits=recipe.student.table_bits,
                labels=(),
                recipe=recipe_record(recipe),
                accuracy={"answers": find_answers(mean_VD, gathered)},
            ).to_json(),
        )


if __name__ == "__main__":
    app()
