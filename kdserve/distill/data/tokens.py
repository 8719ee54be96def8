"""Every text of the corpus as token ids, once, in one flat array on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import Corpus, digest_of, iter_texts
from kdserve.distill.data.splitting import TokenSplitter, gather_runs, make_splitter
from kdserve.distill.data.vocabulary import CLS, PAD, SEP
from kdserve.distill.kept import keep, kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Token rows, one behind the other: row i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each row."""
        return np.diff(self.offsets).astype(np.int32)

    def ragged(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return the tokens of these rows one after the other, and their lengths."""
        starts, ends = self.offsets[numbers], self.offsets[numbers + 1]
        return gather_runs(self.ids, starts, ends - starts), ends - starts

    def filled(self, numbers: npt.NDArray[np.int64], padding: int) -> tuple[Tensor, Tensor]:
        """Return these rows as (B, T), filled up, and their mask."""
        tokens, lengths = self.ragged(numbers)
        real = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
        ids = np.full(real.shape, padding, dtype=np.int64)
        ids[real] = tokens
        return torch.from_numpy(ids), torch.from_numpy(real.astype(np.int64))


def keep_runs(folder: Path, *, key: str, rows: Iterable[list[list[int]]]) -> Runs:
    """Write token rows, given in chunks, into `folder`, or open what was written there under the same key."""
    record, ids_path, offsets_path = folder / "runs.json", folder / "ids.i32", folder / "offsets.npy"
    if kept(record, key) is None:
        folder.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        lengths: list[int] = []
        with ids_path.open("wb") as file:
            for part in rows:
                lengths += map(len, part)
                file.write(np.fromiter(chain.from_iterable(part), dtype=np.int32).tobytes())
        np.save(offsets_path, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        keep(record, key, files=[ids_path, offsets_path])
    ids = np.memmap(ids_path, dtype=np.int32, mode="r")
    return Runs(ids=ids, offsets=np.load(offsets_path))


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStore(Runs):
    """The tokens of texts, cut to `max_tokens`, without [CLS] and [SEP].

    `prompts` are the tokens that stand before a document and before a query.
    """

    splitter: TokenSplitter | None = None
    key: str = ""
    """SHA-256 (hex) of what the tokens depend on: texts, tokenizer, cut and prompts."""
    prompts: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def padded(
        self,
        numbers: npt.NDArray[np.int64],
        *,
        wrap: bool,
        splits: np.random.Generator | None = None,
        queries_B: npt.NDArray[np.bool_] | None = None,
        joined_B: npt.NDArray[np.int64] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return ids and mask, both (B, T) int64; `wrap` puts [CLS] before and [SEP] behind each text.

        `joined_B` says how many of the texts, in their order, make up each row; without it each is a row.

        `splits` decides which tokens the splitter cuts; without it, or without a splitter, none. `queries_B` says which
        texts are queries; without it all are.
        """
        tokens, lengths = self.ragged(numbers)
        if splits and self.splitter:
            tokens, lengths = self.splitter.split(tokens, lengths, splits)
        if joined_B is not None:
            lengths = np.add.reduceat(lengths, np.cumsum(joined_B) - joined_B)
        edge, num_rows = int(wrap), len(lengths)
        is_query = np.ones(num_rows, dtype=np.int64) if queries_B is None else queries_B.astype(np.int64)
        starts = edge + np.array([len(prompt) for prompt in self.prompts])[is_query]
        ends = starts + lengths
        width = max(1, int(ends.max(initial=0)) + edge)
        columns = np.arange(width)
        ids = np.full((num_rows, width), PAD, dtype=np.int64)
        ids[(columns >= starts[:, None]) & (columns < ends[:, None])] = tokens
        for role, prompt in enumerate(self.prompts):
            ids[is_query == role, edge : edge + len(prompt)] = prompt
        if wrap:
            ids[:, 0] = CLS
            ids[np.arange(num_rows), ends] = SEP
        mask = columns < (ends + edge)[:, None]
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def tokenize_texts(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_tokens: int,
    prompts: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
) -> TokenStore:
    """Tokenise some texts, cut so that `max_tokens` hold the longer prompt and the text."""
    most = max_tokens - max(map(len, prompts))
    rows = [one.ids[:most] for one in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    offsets = np.cumsum([0, *map(len, rows)])
    return TokenStore(ids=np.array(list(chain.from_iterable(rows)), dtype=np.int32), offsets=offsets, prompts=prompts)


def tokenize_corpus(
    corpus: Corpus,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    max_tokens: int,
    split: float = 0.0,
    prompts: Sequence[str] = ("", ""),
    progress: Progress = no_progress,
) -> TokenStore:
    """Tokenise the translations, then the sources, into `folder`, or open what was made there before.

    `split` is the share of tokens that the store cuts, where it is asked to; `prompts` stand before documents and
    before queries. `max_tokens` holds the longer prompt and the text.
    """
    document, query = (tuple(tokenizer.encode(prompt.rstrip(), add_special_tokens=False).ids) for prompt in prompts)
    max_tokens -= max(len(document), len(query))
    splitter = make_splitter(tokenizer, share=split, most=max_tokens) if split else None
    key = digest_of(tokenizer.to_str(), max_tokens, corpus.digest, document, query)
    total = len(corpus.translations) + len(corpus.sources)

    def rows() -> Iterator[list[list[int]]]:
        done = 0
        for texts in chain(iter_texts(corpus.translations), iter_texts(corpus.sources)):
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            yield [encoding.ids[:max_tokens] for encoding in encodings]
            done += len(texts)
            progress("tokenising", done, total)

    runs = keep_runs(folder, key=key, rows=rows())
    return TokenStore(ids=runs.ids, offsets=runs.offsets, splitter=splitter, key=key, prompts=(document, query))
