"""kdserve-mini's second stage: its body learns to place questions and passages as a neutral teacher does.

    python models/kdserve-mini/questions.py CHECKOUTS DATA TEXTS
    python models/kdserve-mini/second_stage.py teach TEXTS VECTORS --teacher kdserve-base
    python models/kdserve-mini/second_stage.py teach TEXTS ANCHORS --teacher BUNDLE --anchors
    python models/kdserve-mini/second_stage.py train TEXTS VECTORS START OUT --seed 1 --seconds 900
    python models/kdserve-mini/second_stage.py train TEXTS VECTORS START OUT --anchors ANCHORS --go-on OUT ...
    python models/kdserve-mini/second_stage.py join START STUDENT OUT ... --share 0.3
    python models/kdserve-mini/second_stage.py lengthen START STUDENT --tokens 512

START is the first stage's student, BUNDLE its bundle. The teacher's int8 bundle embeds each text once, so a step
costs what the student costs. `train` takes one core; several of other seeds run side by side. `join` takes the mean
of their weights, or goes --share of the way there from START. `lengthen` makes a student that reads longer texts, for
a start. The token table and the layer that takes directions off stay as they are. Of what the first stage read it
knows more than its teacher does; with anchors its own vectors of that, the mean over a text's languages, are the
targets, and half of the target where a text has no translations. What is taught, and how, is in `lessons.py`.

Letters: N texts, D width.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from lessons import (
    CONTRAST,
    NEW,
    Ints,
    Lessons,
    anchor,
    count_positions,
    learn,
    make_targets,
    open_layers,
    read_texts,
    texts_of,
)
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.distill.data.tokens import TokenStore, tokenize_texts
from kdserve.distill.students.bodies import require_positions
from kdserve.distill.students.folder import read_prompts
from kdserve.distill.teachers.embedder import load_teacher
from kdserve.loading import open_model
from kdserve.manifest import MANIFEST_NAME, hash_file, read_manifest, write_manifest
from kdserve.staging import staged_folder

TOKENS, RATE, AVERAGE = 3_000, 2e-4, 0.99
BANK = {"wiki": 1_536, "passages": 1_536, "questions": 1_024}
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
    held: Annotated[float, typer.Option(help="Share of anchors in the targets of texts that have translations.")] = 1.0,
    rate: Annotated[float, typer.Option(help="Of learning, at its highest.")] = RATE,
    contrast: Annotated[float, typer.Option(help="Weight of finding translations, with anchors.")] = CONTRAST,
    go_on: Annotated[list[Path] | None, typer.Option(help="Begin with the mean of these runs, not with START.")] = None,
) -> None:
    """Train on one core until the steps or the seconds are over; leave the average weights in OUT (safetensors)."""
    torch.set_num_threads(1)
    student = open_layers(start)
    if go_on:
        student.load_state_dict(mean_of(go_on), strict=False)
    kept, rng = np.load(anchors) if anchors else None, np.random.default_rng(seed)
    lessons = read_lessons(
        read_texts(texts), np.load(vectors), start, anchors=kept, held=held, contrast=contrast, rng=rng
    )

    def say(step: int, losses: dict[str, float]) -> None:
        print(step, *(round(loss, 4) for loss in losses.values()), flush=True)

    average, _ = learn(student, lessons, say, rate=rate, average=AVERAGE, seconds=seconds, every=50, steps=steps)
    save_file(average, out)


def read_lessons(
    rows: list[list[str]],
    vectors: npt.NDArray[np.float16],
    start: Path,
    *,
    anchors: npt.NDArray[np.float16] | None,
    held: float,
    contrast: float,
    rng: np.random.Generator,
) -> Lessons:
    """Return lessons of the texts that have vectors, read as the student reads them."""
    rows = rows[: len(vectors)]
    tokens, lengths = read_tokens(start, [row[4] for row in rows])
    texts = texts_of(rows, lengths)
    targets = make_targets(texts, torch.from_numpy(vectors).float())
    if anchors is not None:
        targets = anchor(texts, targets, torch.from_numpy(anchors[: len(rows)]), held=held)

    def read(numbers: Ints) -> tuple[Tensor, Tensor]:
        return tokens.padded(numbers, wrap=True, queries_B=texts.query[numbers])

    contrast = 0.0 if anchors is None else contrast
    return Lessons(texts, targets, read, bank=BANK, tokens=TOKENS, contrast=contrast, rng=rng)


@app.command()
def lengthen(start: Path, student: Path, tokens: int = 512, teacher: str = "multilingual-e5-small") -> None:
    """Write STUDENT: START with positions for longer texts, the teacher's, as far away as START's are on average."""
    body = load_teacher(teacher, device="cpu").body
    require_positions(body, tokens)
    longer_TD = body.embeddings.position_embeddings.weight.detach()[:tokens].clone()
    with rewritten(start, student, max_tokens=tokens) as model:
        own = model[0].auto_model
        own_TD = own.embeddings.position_embeddings.weight.detach()
        longer_TD += (own_TD - longer_TD[: len(own_TD)]).mean(dim=0)
        longer_TD[: len(own_TD)] = own_TD
        own.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(longer_TD)
        own.config.max_position_embeddings = model.tokenizer.model_max_length = tokens
        model.tokenizer.init_kwargs["max_length"] = tokens


@app.command()
def join(start: Path, student: Path, runs: list[Path], share: float = 1.0) -> None:
    """Write STUDENT: START's weights, moved by `share` towards the mean of the runs'."""
    mean = mean_of(runs)
    with rewritten(start, student) as model, torch.no_grad():
        for name, value in model[0].auto_model.named_parameters(prefix="body"):
            if name in mean:
                value.lerp_(mean[name], share)


@contextmanager
def rewritten(start: Path, student: Path, **changed: object) -> Iterator[SentenceTransformer]:
    """Open START, and write what the block makes of it to STUDENT, as are the settings that are `changed`."""
    manifest = read_manifest(start, kind="student")
    with staged_folder(student) as folder:
        shutil.copytree(start, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST_NAME))
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        yield model
        model[0].save(str(folder))
        parents = {**manifest.parents, "first_stage": hash_file(start / MANIFEST_NAME)}
        write_manifest(folder, kind="student", parents=parents, settings={**manifest.settings, **changed})


def mean_of(runs: list[Path]) -> dict[str, Tensor]:
    """Return the mean of the weights that runs left: each in a file, or in a folder of pieces."""
    pieces = [sorted(run.glob("*.safetensors")) if run.is_dir() else [run] for run in runs]
    trained = [{name: value for piece in one for name, value in load_file(piece).items()} for one in pieces]
    return {name: torch.stack([one[name].float() for one in trained]).mean(dim=0) for name in trained[0]}


def read_tokens(start: Path, texts: list[str]) -> tuple[TokenStore, npt.NDArray[np.int64]]:
    """Return the texts as the student reads them, and their lengths with all that stands around them."""
    tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    document, query = (
        tuple(tokenizer.encode(prompt.rstrip(), add_special_tokens=False).ids) for prompt in read_prompts(start)
    )
    tokens = tokenize_texts(tokenizer, texts, max_tokens=count_positions(start) - 2, prompts=(document, query))
    return tokens, tokens.lengths.astype(np.int64) + 2 + len(query)


if __name__ == "__main__":
    app()
