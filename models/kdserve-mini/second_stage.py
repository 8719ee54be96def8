"""kdserve-mini's second stage: its body learns to place questions and passages as a neutral teacher does.

    python models/kdserve-mini/questions.py CHECKOUTS DATA TEXTS
    python models/kdserve-mini/second_stage.py teach TEXTS VECTORS --teacher kdserve-base
    python models/kdserve-mini/second_stage.py teach TEXTS ANCHORS --teacher BUNDLE --anchors
    python models/kdserve-mini/second_stage.py train TEXTS VECTORS START OUT --seed 1 --seconds 900
    python models/kdserve-mini/second_stage.py train TEXTS VECTORS START OUT --anchors ANCHORS --go-on OUT ...
    python models/kdserve-mini/second_stage.py join START STUDENT OUT ... --share 0.3

START is the first stage's student, BUNDLE its bundle. The teacher's int8 bundle embeds each text once, so a step costs
what the student costs. `train` takes one core; several of other seeds run side by side. `join` takes the mean of their
weights, or goes --share of the way there from START. The token table and the layer that takes directions off stay as
they are. Of what the first stage read in translation it knows more than its teacher does; with anchors its own vectors
of that, the mean over a text's languages, are the targets, and half of the target where a text has no translations.

Letters: N texts, B batch, K texts that a batch is ranked against, D width.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from kdserve.distill.data.tokens import TokenStore, tokenize_texts
from kdserve.distill.objectives.vectors import cosine_loss
from kdserve.distill.students.embedder import Student
from kdserve.distill.students.folder import open_student, read_prompts
from kdserve.loading import open_model
from kdserve.manifest import MANIFEST_NAME, hash_file, read_manifest, staged_folder, write_manifest
from kdserve.recipe import StudentRecipe

TOKENS, RATE, AVERAGE, WARMUP, SCALE = 3_000, 2e-4, 0.99, 0.05, 120.0
BANK = {"wiki": 1_536, "passages": 1_536, "questions": 1_024}
WIKI = {
    "pud", "jaquad", "drcd", "cmrc2018", "arcd", "piaf", "faquad", "iapp-wiki-qa", "indic-wiki", "tico19",
}  # fmt: skip
NEW = {*WIKI, "opentriviaqa", "qald"}
"""What the first stage did not read, or of which its teacher knows more."""
EVERYDAY = {
    "tatoeba", "tatoeba-pivot", "tatoeba-pivot2", "tanaka", "opensubs-xed", "korean-park", "scratch-ui", "element-ui",
    "ms-docs", "mozilla-www", "tldr",
}  # fmt: skip
DRAWN = {"questions": 0.5, "paragraphs": 0.1, "everyday": 0.22, "documents": 0.18}
"""Share of a batch's texts."""
FEW = 100
"""A language's shift in one role leans on that in the other as if that had so many pairs."""
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def teach(
    texts: Path,
    vectors: Path,
    teacher: str = "kdserve-base",
    most: Annotated[int, typer.Option(help="Texts from the first on; 0 takes all.")] = 0,
    anchors: Annotated[bool, typer.Option("--anchors", help="Leave out what is new to it; those stay 0.")] = False,
) -> None:
    """Embed every text under its prompt: (N, D) in half precision."""
    rows, embedder = read_texts(texts), open_model(teacher)
    rows = rows[: most or len(rows)]
    wanted = [not anchors or row[3] not in NEW for row in rows]
    found = np.zeros((len(rows), embedder.dim), np.float16)
    for role, encode in (("p", embedder.encode_document), ("q", embedder.encode_query)):
        places = [number for number, row in enumerate(rows) if wanted[number] and row[1] == role]
        if places:
            found[places] = encode([rows[number][4] for number in places])
    np.save(vectors, found)


@app.command()
def train(
    texts: Path,
    vectors: Path,
    start: Path,
    out: Path,
    seed: int = 1,
    steps: int = 1_100,
    seconds: float = 1_980.0,
    anchors: Annotated[Path | None, typer.Option(help="The first stage's vectors, from `teach`.")] = None,
    go_on: Annotated[list[Path] | None, typer.Option(help="Begin with the mean of these runs, not with START.")] = None,
) -> None:
    """Train on one core until the steps or the seconds are over; leave the average weights in OUT (safetensors)."""
    torch.set_num_threads(1)
    student = open_student(start, StudentRecipe(max_tokens=256, table_bits=4))
    if go_on:
        student.load_state_dict(mean_of(go_on), strict=False)
    student.table.requires_grad_(requires_grad=False)
    for module in (student.body.embeddings, student.dense):
        module.requires_grad_(requires_grad=False)
    trained = {name: value for name, value in student.named_parameters() if value.requires_grad}
    average = {name: value.detach().clone() for name, value in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    kept = np.load(anchors) if anchors else None
    lessons = Lessons(read_texts(texts), np.load(vectors), start, anchors=kept, rng=np.random.default_rng(seed))
    batches = draw_batches(lessons.cumulative, lessons.lengths, lessons.batch_size, lessons.rng)
    started = time.monotonic()
    for step in range(1, steps):
        spent = max(step / steps, (time.monotonic() - started) / seconds)
        if spent >= 1:
            break
        optimizer.param_groups[0]["lr"] = RATE * min(spent / WARMUP, (1 - spent) / (1 - WARMUP))
        losses = lessons.losses(student, next(batches))
        optimizer.zero_grad(set_to_none=True)
        torch.stack([weight * loss for weight, loss in losses]).sum().backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        decay = min(AVERAGE, step / (9 + step))
        torch._foreach_lerp_(list(average.values()), [value.detach() for value in trained.values()], 1 - decay)
        if step % 50 == 0:
            print(step, *(round(loss.item(), 4) for _, loss in losses), flush=True)
    save_file(average, out)


def draw_batches(
    cumulative_N: npt.NDArray[np.float64],
    lengths_N: npt.NDArray[np.int64],
    size: int,
    rng: np.random.Generator,
    *,
    chunk: int = 32,
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield numbers of texts for ever, `size` on average: batches of like length and of about as many tokens."""
    while True:
        drawn = np.searchsorted(cumulative_N, rng.random(chunk * size))
        drawn = drawn.clip(max=len(lengths_N) - 1)
        drawn = drawn[np.argsort(lengths_N[drawn], kind="stable")]
        sums = np.cumsum(lengths_N[drawn])
        ends = np.unique(np.searchsorted(sums, np.arange(1, chunk) * sums[-1] / chunk))
        parts = [part for part in np.split(drawn, ends) if len(part) > 1]
        for number in rng.permutation(len(parts)):
            yield parts[number]


class Lessons:
    """Texts as tokens, what the teacher says of them, and batches of them."""

    def __init__(
        self,
        rows: list[list[str]],
        vectors: npt.NDArray[np.float16],
        start: Path,
        *,
        anchors: npt.NDArray[np.float16] | None,
        rng: np.random.Generator,
    ) -> None:
        rows = rows[: len(vectors)]
        self.rng, self.queries = rng, np.array([row[1] == "q" for row in rows])
        self.tokens, lengths = read_tokens(start, [row[4] for row in rows])
        targets = make_targets(rows, vectors.astype(np.float32))
        anchored = np.zeros(len(rows), bool) if anchors is None else anchors[: len(rows)].any(axis=1)
        for role in (False, True) if anchors is not None else ():
            these = anchored & (self.queries == role)
            targets[these] = make_anchors(rows, anchors, these, targets_ND=targets)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(row[2] for row in rows if row[2]))}
        self.groups = np.array([numbers.get(row[2], -1 - place) for place, row in enumerate(rows)])
        self.contrast = 0.3 if anchored.any() else 0.0
        self.targets = torch.from_numpy(targets)
        means = np.stack([targets[self.queries == role].mean(axis=0) for role in (False, True)])
        self.means = torch.from_numpy(means)
        wiki = np.array([row[3] in WIKI for row in rows])
        chosen = {"wiki": wiki & ~self.queries, "passages": ~self.queries, "questions": self.queries}
        self.bank = {name: np.flatnonzero(found) for name, found in chosen.items()}
        everyday, new = (np.array([row[3] in these for row in rows]) for these in (EVERYDAY, NEW))
        kinds = {
            "questions": new & self.queries,
            "paragraphs": new & ~self.queries,
            "everyday": everyday,
            "documents": ~new & ~everyday,
        }
        _, language_of = np.unique([row[0] for row in rows], return_inverse=True)
        rarity = np.bincount(language_of)[language_of] ** -0.4
        weights = np.zeros(len(rows))
        for name, found in kinds.items():
            weights[found] = DRAWN[name] * rarity[found] / max(rarity[found].sum(), 1e-9)
        weights /= weights.sum()
        self.cumulative, self.lengths = np.cumsum(weights), lengths
        self.batch_size = max(8, int(TOKENS / (weights * lengths).sum()))

    def losses(self, student: Student, texts: npt.NDArray[np.int64]) -> list[tuple[float, Tensor]]:
        """Return weights and losses.

        They are 1 - cosine to the targets (means taken off), how the teacher ranks other texts beside these, and with
        anchors how a text that has translations finds its target among these and others.
        """
        ids, mask = self.tokens.padded(texts, wrap=True, queries_B=self.queries[texts])
        with torch.autocast("cpu", torch.bfloat16):
            vectors_BD = student(ids, mask).vectors_BD.float()
        targets_BD = self.targets[texts]
        means_BD = self.means[self.queries[texts].astype(int)]
        ours, theirs = (functional.normalize(one - means_BD, dim=-1) for one in (vectors_BD, targets_BD))
        others = np.concatenate([self.rng.choice(self.bank[name], most) for name, most in BANK.items()])
        same_BK = torch.from_numpy(others[None] == texts[:, None])
        logits = [SCALE * one @ self.targets[others].T for one in (vectors_BD, targets_BD)]
        shares = [one.masked_fill(same_BK, -1e4).log_softmax(dim=-1) for one in logits]
        ranking = functional.kl_div(*shares, reduction="batchmean", log_target=True)
        found = [(5.0, cosine_loss(ours, theirs)), (1.0, ranking)]
        paired = np.flatnonzero(self.groups[texts] >= 0)
        if self.contrast and len(paired):
            keys = np.concatenate([texts, others])
            same_PK = torch.from_numpy(self.groups[texts[paired]][:, None] == self.groups[keys][None])
            same_PK[range(len(paired)), paired] = False
            logits_PK = (50.0 * vectors_BD[paired] @ self.targets[keys].T).masked_fill(same_PK, -1e4)
            found.append((self.contrast, functional.cross_entropy(logits_PK, torch.from_numpy(paired))))
        return found


def make_anchors(
    rows: list[list[str]],
    anchors_ND: npt.NDArray[np.float16],
    anchored_N: npt.NDArray[np.bool_],
    *,
    targets_ND: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Return the first stage's vectors of anchored texts, moved to where their targets are: their means over languages.

    A text that has no translations gets the mean of its own and its target.
    """
    places = np.flatnonzero(anchored_N)
    vectors = unit(anchors_ND[places].astype(np.float32))
    vectors += targets_ND[places].mean(axis=0) - vectors.mean(axis=0)
    names = [rows[place][2] or place for place in places]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    text_of = np.array([numbers[name] for name in names])
    sums = np.zeros((len(numbers), vectors.shape[1]), np.float32)
    np.add.at(sums, text_of, vectors)
    alone = np.array([isinstance(name, int) for name in names])
    found = unit(sums)[text_of]
    found[alone] = unit(found[alone] + targets_ND[places[alone]])
    return found


def make_targets(rows: list[list[str]], vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Take each language's shift off; half of a text that has translations is the mean of theirs."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row[2]:
            groups[row[2], row[1]].append(number)
    targets_ND = unit(vectors_ND)
    targets_ND = unit(targets_ND - shifts(rows, targets_ND, groups))
    own_ND = targets_ND.copy()
    for members in groups.values():
        if len(members) > 1:
            others = own_ND[members].sum(axis=0) - own_ND[members]
            targets_ND[members] = own_ND[members] + unit(others)
    return unit(targets_ND)


def shifts(
    rows: list[list[str]], vectors_ND: npt.NDArray[np.float32], groups: dict[tuple[str, str], list[int]]
) -> npt.NDArray[np.float32]:
    """Return for each text what translations into its language, in its role, differ by from English on average."""
    differences: dict[tuple[str, str], list[npt.NDArray[np.float32]]] = defaultdict(list)
    for (_, role), members in groups.items():
        english = [number for number in members if rows[number][0] == "en"]
        for number in members if english else ():
            if rows[number][0] != "en":
                differences[rows[number][0], role].append(vectors_ND[number] - vectors_ND[english].mean(axis=0))
    means = {place: np.mean(found, axis=0) for place, found in differences.items()}
    nothing = np.zeros(vectors_ND.shape[1], np.float32)
    blended = {}
    for language, role in {(row[0], row[1]) for row in rows}:
        count, own = len(differences[language, role]), means.get((language, role), nothing)
        other = means.get((language, "p" if role == "q" else "q"), own)
        blended[language, role] = (count * own + FEW * other) / (count + FEW)
    return np.stack([blended[row[0], row[1]] for row in rows])


@app.command()
def join(start: Path, student: Path, runs: list[Path], share: float = 1.0) -> None:
    """Write STUDENT: START's weights, moved by `share` towards the mean of the runs'."""
    manifest, mean = read_manifest(start, kind="student"), mean_of(runs)
    with staged_folder(student) as folder:
        shutil.copytree(start, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST_NAME))
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        named = dict(model[0].auto_model.named_parameters())
        with torch.no_grad():
            for name, value in mean.items():
                if name.startswith("body."):
                    named[name.removeprefix("body.")].lerp_(value, share)
        model[0].save(str(folder))
        parents = {**manifest.parents, "first_stage": hash_file(start / MANIFEST_NAME)}
        write_manifest(folder, kind="student", parents=parents, settings=manifest.settings)


def mean_of(runs: list[Path]) -> dict[str, Tensor]:
    """Return the mean of the weights that runs left: each in a file, or in a folder of pieces."""
    pieces = [sorted(run.glob("*.safetensors")) if run.is_dir() else [run] for run in runs]
    trained = [{name: value for piece in one for name, value in load_file(piece).items()} for one in pieces]
    return {name: torch.stack([one[name].float() for one in trained]).mean(dim=0) for name in trained[0]}


def read_texts(path: Path) -> list[list[str]]:
    """Return the rows that questions.py wrote: language, role, group, domain, text."""
    return [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_tokens(start: Path, texts: list[str]) -> tuple[TokenStore, npt.NDArray[np.int64]]:
    """Return the texts as the student reads them, and their lengths with all that stands around them."""
    tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    document, query = (
        tuple(tokenizer.encode(prompt.rstrip(), add_special_tokens=False).ids) for prompt in read_prompts(start)
    )
    tokens = tokenize_texts(tokenizer, texts, max_tokens=254, prompts=(document, query))
    return tokens, tokens.lengths.astype(np.int64) + 2 + len(query)


def unit(vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the rows at length 1."""
    return vectors_ND / np.linalg.norm(vectors_ND, axis=-1, keepdims=True).clip(1e-12)


if __name__ == "__main__":
    app()
