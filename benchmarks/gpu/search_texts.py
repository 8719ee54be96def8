"""What `search_stage.py` trains on: questions and passages of a file, and the first stage's text, as rows of tokens.

N texts, B batch, T tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gpu_run import open_corpus
from second_stage import EVERYDAY, WIKI, read_texts
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.distill.data.splitting import gather_runs
from kdserve.distill.data.vocabulary import CLS, PAD, SEP

MOST_TOKENS = 256
SHARE_OF_FIRST = 0.6
"""Of the first stage's sentences, with all their translations."""
KINDS = {"wiki": WIKI, "everyday": EVERYDAY}


@dataclass
class Texts:
    """Wrapped token rows, one behind the other, and what is known of each: (N,). Group -1 has no translations."""

    flat: Tensor
    starts: Tensor
    lengths: npt.NDArray[np.int64]
    language: npt.NDArray[np.int64]
    query: npt.NDArray[np.bool_]
    group: npt.NDArray[np.int64]
    wiki: npt.NDArray[np.bool_]
    everyday: npt.NDArray[np.bool_]

    def padded(self, numbers: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return ids and mask (B, T), T a multiple of eight."""
        device = self.flat.device
        lengths = torch.from_numpy(self.lengths[numbers]).to(device)
        columns = torch.arange(-(-int(self.lengths[numbers].max()) // 8) * 8, device=device)
        at = self.starts[torch.from_numpy(numbers).to(device), None] + columns
        mask = columns < lengths[:, None]
        return torch.where(mask, self.flat[at.clamp_max(len(self.flat) - 1)], PAD), mask.long()


def gather(first: Path, texts: Path, device: torch.device, *, most: int, rng: np.random.Generator) -> Texts:
    """Return questions and passages of TEXTS, and a share of the first stage's text under either prompt."""
    corpus, tokens = open_corpus(first)
    codes = {code: number for number, code in enumerate(("en", *corpus.languages))}
    lines = [line for line in read_texts(texts) if line[0] in codes][: most or None]
    encoded = tokenise(first / "teacher", [line[4] for line in lines])
    names: dict[str, int] = {}
    kept = rng.permutation(len(corpus.sources))[: most or int(SHARE_OF_FIRST * len(corpus.sources))]
    chosen = np.zeros(len(corpus.sources), bool)
    chosen[kept] = True
    pairs = np.flatnonzero(chosen[corpus.source_of])
    num_pairs = len(corpus.source_of)
    numbers = np.concatenate([pairs, np.sort(kept) + num_pairs])
    source = np.concatenate([corpus.source_of[pairs], np.sort(kept)])
    domain_of_source = np.zeros(len(corpus.sources), np.int64)
    domain_of_source[corpus.source_of] = corpus.domain_of
    flags = {name: np.array([domain in these for domain in corpus.domains]) for name, these in KINDS.items()}
    asked = rng.random(len(corpus.sources)) < np.where(flags["everyday"][domain_of_source], 0.4, 0.15)
    asked &= tokens.lengths[num_pairs:] <= 32
    language = np.concatenate([np.asarray(corpus.language_of)[pairs] + 1, np.zeros(len(kept), np.int64)])
    query = np.concatenate([[line[1] == "q" for line in lines], asked[source]])
    sizes = np.concatenate([[len(one) for one in encoded], tokens.lengths[numbers]])
    offsets = np.cumsum([0, *map(len, encoded)])[:-1]
    ids = np.concatenate([np.fromiter(chain.from_iterable(encoded), np.int32), tokens.ids])
    starts = np.concatenate([offsets, tokens.offsets[numbers] + len(ids) - len(tokens.ids)])
    wrapped, lengths = wrap(ids, starts, sizes, query, tokens.prompts)
    domain = np.concatenate([corpus.domain_of[pairs], domain_of_source[np.sort(kept)]])
    kinds = {
        name: np.concatenate([[line[3] in these for line in lines], flags[name][domain]])
        for name, these in KINDS.items()
    }
    groups = [names.setdefault(line[2], len(names)) + len(corpus.sources) if line[2] else -1 for line in lines]
    return Texts(
        flat=torch.from_numpy(wrapped).to(device),
        starts=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)[:-1]])).to(device),
        lengths=lengths,
        language=np.concatenate([[codes[line[0]] for line in lines], language]),
        query=query,
        group=np.concatenate([groups, source]),
        **kinds,
    )


def tokenise(teacher: Path, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of texts, whole and with nothing around them."""
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    for off in (tokenizer.no_padding, tokenizer.no_truncation):
        off()
    return [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def wrap(
    ids: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    query: npt.NDArray[np.bool_],
    prompts: tuple[tuple[int, ...], ...],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return [CLS], the role's prompt, the tokens and [SEP] of each text, one behind the other, and their lengths."""
    heads = 1 + np.array([len(prompt) for prompt in prompts])[query.astype(int)]
    sizes = np.minimum(sizes, MOST_TOKENS - heads - 1)
    lengths = heads + sizes + 1
    ends = np.cumsum(lengths)
    wrapped = np.full(ends[-1], SEP, np.int32)
    wrapped[ends - lengths] = CLS
    for role, prompt in enumerate(prompts):
        for place, token in enumerate(prompt, start=1):
            wrapped[(ends - lengths)[query == role] + place] = token
    first = np.repeat(ends - 1 - np.cumsum(sizes), sizes)
    wrapped[first + np.arange(len(first))] = gather_runs(ids, starts, sizes)
    return wrapped, lengths
