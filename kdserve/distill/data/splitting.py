"""Cut some tokens into smaller ones while training, so that words that were never seen whole are read by their pieces.

Subword regularisation (Kudo 2018) in the form of BPE-dropout (Provilkov et al. 2020): a token is left out, and its
letters get the best cut without it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from kdserve.distill.data.vocabulary import BYTE_TOKENS
from kdserve.errors import RecipeError

Ids = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSplitter:
    """Cuts a `share` of tokens; token i consists of `pieces[offsets[i]:offsets[i + 1]]`, or of itself alone.

    No text gets longer than `most` tokens.
    """

    pieces: Ids
    offsets: Lengths
    share: float
    most: int

    def split(self, tokens: Ids, lengths: Lengths, rng: np.random.Generator) -> tuple[Ids, Lengths]:
        """Take and return the tokens of texts one after the other, and the texts' lengths."""
        chosen = rng.random(len(tokens)) < self.share
        sizes = np.where(chosen, np.diff(self.offsets)[tokens], 1)
        starts = np.where(chosen, self.offsets[tokens], len(self.pieces) + np.arange(len(tokens)))
        changed = gather_runs(np.concatenate([self.pieces, tokens]), starts, sizes)
        texts = np.repeat(np.arange(len(lengths)), lengths)
        longer = np.bincount(texts, weights=sizes, minlength=len(lengths)).astype(np.int64)
        position = np.arange(len(changed)) - np.repeat(np.cumsum(longer) - longer, longer)
        return changed[position < self.most], np.minimum(longer, self.most)


def gather_runs(flat: Ids, starts: Lengths, lengths: Lengths) -> Ids:
    """Return the runs `flat[start : start + length]` one after the other."""
    shifts = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    runs: Ids = flat[np.arange(len(shifts)) + shifts]
    return runs


def make_splitter(tokenizer: Tokenizer, *, share: float, most: int) -> TokenSplitter:
    """Find the likeliest cut of every token of a Unigram vocabulary into two or more others.

    Raises:
        RecipeError: the vocabulary is of another kind.
    """
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] != "Unigram":
        raise RecipeError(f"train.split_tokens needs a Unigram vocabulary, this one is {model['type']}; set it to 0")
    numbers = {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    scores = dict(model["vocab"])
    whole = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | set(BYTE_TOKENS)
    cuts = [
        [] if piece in whole else [numbers[part] for part in _best_cut(piece, scores)] for piece, _ in model["vocab"]
    ]
    cuts = [cut or [number] for number, cut in enumerate(cuts)]
    return TokenSplitter(
        pieces=np.array([part for cut in cuts for part in cut], np.int32),
        offsets=np.cumsum([0, *map(len, cuts)]).astype(np.int64),
        share=share,
        most=most,
    )


def _best_cut(piece: str, scores: dict[str, float]) -> list[str]:
    """Return the likeliest two or more pieces that a piece consists of; empty where there are none (Viterbi)."""
    best = [0.0] + [-math.inf] * len(piece)
    begins = [0] * (len(piece) + 1)
    for end in range(1, len(piece) + 1):
        for begin in range(end):
            score = scores.get(piece[begin:end])
            if score is not None and end - begin < len(piece) and best[begin] + score > best[end]:
                best[end], begins[end] = best[begin] + score, begin
    if best[-1] == -math.inf:
        return []
    cut, end = [], len(piece)
    while end:
        cut.append(piece[begins[end] : end])
        end = begins[end]
    return cut[::-1]
