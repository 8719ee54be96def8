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
from lessons import EVERYDAY, Ints, Texts, read_texts, texts_of
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.distill.data.corpus import Corpus
from kdserve.distill.data.splitting import gather_runs
from kdserve.distill.data.vocabulary import CLS, PAD, SEP

MOST_TOKENS = 256
SHARE_OF_FIRST = 0.6
"""Of the first stage's sentences, with all their translations."""


@dataclass(frozen=True, kw_only=True)
class PackedTexts(Texts):
    """Texts as wrapped token rows, one behind the other."""

    flat: Tensor
    starts: Tensor

    def padded(self, numbers: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return ids and mask (B, T), T a multiple of eight."""
        device = self.flat.device
        lengths = torch.from_numpy(self.lengths[numbers]).to(device)
        columns = torch.arange(-(-int(self.lengths[numbers].max()) // 8) * 8, device=device)
        at = self.starts[torch.from_numpy(numbers).to(device), None] + columns
        mask = columns < lengths[:, None]
        return torch.where(mask, self.flat[at.clamp_max(len(self.flat) - 1)], PAD), mask.long()


def gather(first: Path, texts: Path, device: torch.device, *, most: int, rng: np.random.Generator) -> PackedTexts:
    """Return questions and passages of TEXTS, and a share of the first stage's text under either prompt."""
    corpus, tokens = open_corpus(first)
    languages = ("en", *corpus.languages)
    lines = [line for line in read_texts(texts) if line[0] in languages][: most or None]
    encoded = tokenise(first / "teacher", [line[4] for line in lines])
    sizes = np.array([len(one) for one in encoded])
    new = texts_of(lines, sizes, languages=languages, domains=corpus.domains)
    old, numbers = first_texts(corpus, tokens.lengths, most=most, rng=rng)
    new.group[new.group >= 0] += len(corpus.sources)
    ids = np.concatenate([np.fromiter(chain.from_iterable(encoded), np.int32), tokens.ids])
    starts = np.concatenate([np.cumsum(sizes) - sizes, tokens.offsets[numbers] + sizes.sum()])
    language, query, group, domain, sizes = (
        np.concatenate([getattr(part, name) for part in (new, old)])
        for name in ("language", "query", "group", "domain", "lengths")
    )
    wrapped, lengths = wrap(ids, starts, sizes, query, tokens.prompts)
    return PackedTexts(
        language=language,
        query=query,
        group=group,
        domain=domain,
        domains=new.domains,
        lengths=lengths,
        flat=torch.from_numpy(wrapped).to(device),
        starts=torch.from_numpy(np.cumsum(lengths) - lengths).to(device),
    )


def first_texts(corpus: Corpus, lengths: Ints, *, most: int, rng: np.random.Generator) -> tuple[Texts, Ints]:
    """Return a share of the first stage's text, a sentence in all its languages, and the texts' numbers there."""
    num_pairs, num_sources = len(corpus.source_of), len(corpus.sources)
    kept = np.sort(rng.permutation(num_sources)[: most or int(SHARE_OF_FIRST * num_sources)])
    numbers = np.concatenate([np.flatnonzero(np.isin(corpus.source_of, kept)), kept + num_pairs])
    source, domain = corpus.sources_of(numbers), np.zeros(num_sources, np.int64)
    domain[corpus.source_of] = corpus.domain_of
    everyday = np.array([name in EVERYDAY for name in corpus.domains])[domain]
    asked = (rng.random(num_sources) < np.where(everyday, 0.4, 0.15)) & (lengths[num_pairs:] <= 32)
    return Texts(
        language=(corpus.languages_of(numbers) + 1) % (len(corpus.languages) + 1),
        query=asked[source],
        group=source,
        domain=domain[source],
        lengths=lengths[numbers],
        domains=list(corpus.domains),
    ), numbers


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
