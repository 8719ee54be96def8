"""A teacher's vectors of what kdserve-static reads: its tokens one by one, English sources, questions.

Letters: N texts, S sources, V tokens of the vocabulary, D width.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from draws import Draws
from texts import ASKED, Gathered, Ints
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from kdserve.distill.data.vocabulary import BYTE_TOKENS, SPECIAL_TOKENS, WORD_START
from kdserve.loading import open_model

SHORT = 30
"""Words of the sources that are embedded first."""
RARE = 1e-4
"""A token of this frequency weighs half (Arora et al. 2017)."""
DEVIATION, NOTHING = 0.19, 0.05
"""Of the first table's values, and the weight of special tokens and bytes there."""
OTHER, ENGLISH = 0.2, 0.25
"""Shares of texts with targets that are questions and treebank sentences, and of the rest those that are English."""
CHUNK = 4_096


def embed(gathered: Gathered, work: Path, *, teacher: str, sources: int) -> None:
    """Write the vectors of each kind of texts below `work`, going on where that was stopped."""
    model = open_model(teacher, num_threads=1)
    pieces = [token_text(gathered.tokenizer, number) for number in range(gathered.tokenizer.get_vocab_size())]
    asked = [row for row in gathered.asked if row[3] in ASKED]
    treebank = [row for row in gathered.asked if row[3] == "pud"]
    corpus = gathered.corpus
    for name, encode, texts in (
        ("tokens", model.encode_document, pieces),
        ("questions", model.encode_query, gathered.answers.questions),
        ("asked", model.encode_query, [row[4] for row in asked]),
        ("treebank", model.encode_document, [row[4] for row in treebank]),
        ("sources", model.encode_document, corpus.sources.select(source_order(gathered)[:sources])),
    ):
        path = work / f"{name}.f16"
        path.touch()
        done = path.stat().st_size // (2 * model.dim)
        os.truncate(path, done * 2 * model.dim)
        with path.open("ab") as file:
            for first in range(done, len(texts), CHUNK):
                file.write(encode(texts[first : first + CHUNK]).astype(np.float16).tobytes())
                print(name, min(first + CHUNK, len(texts)), len(texts), flush=True)


def token_text(tokenizer: Tokenizer, number: int) -> str:
    """Return what a token stands for; a full stop where that is nothing."""
    return tokenizer.id_to_token(number).replace(WORD_START, " ").strip() or "."


def source_order(gathered: Gathered) -> Ints:
    """Return the numbers of the corpus' sources in random order, short ones first."""
    sources = gathered.corpus.sources
    order = np.random.default_rng(0).permutation(len(sources))
    long = np.array([len(sources[int(number)].split()) > SHORT for number in order])
    return order[np.argsort(long, kind="stable")]


def read_vectors(path: Path, *, dim: int = 384) -> Tensor:
    """Return what `embed` wrote: (N, D) in half precision."""
    return torch.from_numpy(np.fromfile(path, np.float16).reshape(-1, dim))


def start_table(tokenizer: Tokenizer, work: Path) -> Tensor:
    """Return the teacher's vectors of the tokens less their mean, rare ones longer: (V, D)."""
    first = len(SPECIAL_TOKENS) + len(BYTE_TOKENS)
    vectors_VD = read_vectors(work / "tokens.f16").float()
    vectors_VD[:first] = vectors_VD[first:].mean(dim=0)
    scores = [score for _, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    frequency_V = torch.tensor(scores).exp()
    frequency_V[:first] = 0
    weight_V = RARE / (RARE + frequency_V / frequency_V.sum())
    weight_V[:first] = NOTHING
    table_VD = (vectors_VD - vectors_VD[first:].mean(dim=0)) * weight_V[:, None]
    return table_VD * (DEVIATION / table_VD.std())


class Targets:
    """Texts that have a vector of the teacher's, less the mean of their kind: a translation has its source's."""

    def __init__(self, gathered: Gathered, work: Path) -> None:
        corpus = gathered.corpus
        self.sources = Kind.of(read_vectors(work / "sources.f16"), source_order(gathered))
        self.row_of = np.full(len(corpus.sources), -1, np.int64)
        self.row_of[self.sources.texts] = np.arange(len(self.sources.texts))
        self.row_of[corpus.held_out] = -1
        self.english = np.flatnonzero(self.row_of >= 0)
        self.first_source = len(corpus.translations)
        places = [number for number, row in enumerate(gathered.asked) if row[3] in ASKED]
        treebank = [number for number, row in enumerate(gathered.asked) if row[3] == "pud"]
        asked = np.flatnonzero(~gathered.answers.held_out)
        self.others = [
            Kind.of(read_vectors(work / "questions.f16")[asked], gathered.first_question + asked),
            Kind.of(read_vectors(work / "asked.f16"), gathered.first_asked + np.array(places)),
            Kind.of(read_vectors(work / "treebank.f16"), gathered.first_asked + np.array(treebank)),
        ]

    def draw(self, count: int, draws: Draws) -> tuple[Ints, Tensor]:
        """Draw texts, (N,), and their targets, (N, D)."""
        rng, each = draws.rng, int(count * OTHER) // len(self.others)
        rest = count - each * len(self.others)
        english = self.english[rng.integers(0, len(self.english), int(rest * ENGLISH))]
        pairs = draws.groups.draw(2 * rest, rng, mixed=True)
        pairs = pairs[self.row_of[draws.source_of[pairs]] >= 0][: rest - len(english)]
        of_sources = self.row_of[np.concatenate([english, draws.source_of[pairs]])]
        texts, targets = [english + self.first_source, pairs], [self.sources.targets(of_sources)]
        for kind in self.others:
            drawn = rng.integers(0, len(kind.texts), each)
            texts.append(kind.texts[drawn])
            targets.append(kind.targets(drawn))
        return np.concatenate(texts), torch.cat(targets)


class Kind:
    """Texts of one kind and their vectors."""

    def __init__(self, vectors_ND: Tensor, texts: Ints) -> None:
        self.vectors, self.texts = vectors_ND, texts
        self.mean = vectors_ND[:50_000].float().mean(dim=0)

    @classmethod
    def of(cls, vectors_ND: Tensor, texts: npt.NDArray[np.int64]) -> Kind:
        """Take as many texts as have vectors."""
        return cls(vectors_ND, texts[: len(vectors_ND)])

    def targets(self, rows: Ints) -> Tensor:
        """Return unit vectors of some rows, (N, D), the kind's mean taken off."""
        return functional.normalize(self.vectors[torch.from_numpy(rows)].float() - self.mean, dim=-1)
