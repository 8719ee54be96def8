"""Texts through a bundle's tokenizer and graph: one row of numbers a text, whatever the graph gives.

N texts, W width of a row
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Progress, TokenBatch, no_progress
from kdserve.errors import EncodeError, FolderError
from kdserve.runtime.batches import make_batches
from kdserve.runtime.session import Device, Output, Session
from kdserve.runtime.tokens import TextTokenizer, TokenizedTexts

_logger = logging.getLogger("kdserve")
_WINDOW_TEXTS = 4096
_TOLERANCE = 0.01
_ROWS_A_STRETCH = 128  # Linux maps 64 KiB around what is touched, where the file is in memory
_BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What N texts became: `rows` (N, W) float32, the tokens read of each text, and which of them were cut."""

    rows: npt.NDArray[np.float32]
    num_tokens: list[int]
    is_cut: list[bool]


class Runner:
    """A tokenizer and a graph, opened. Safe to call from several threads.

    `num_cut` counts the texts cut at `max_tokens` since loading, by all threads together.
    """

    def __init__(
        self,
        model: Path,
        tokenizer: Path,
        *,
        width: int,
        max_tokens: int,
        device: Device,
        num_threads: int,
        output: Output = "sentence_embedding",
    ) -> None:
        """Open both files.

        Raises:
            FolderError: one of them cannot be opened, or the tokenizer cuts elsewhere than at `max_tokens`.
        """
        self.model, self.width, self.max_tokens = model, width, max_tokens
        self.device, self.num_threads = device, num_threads
        self.num_cut = 0
        self._counting = threading.Lock()
        self._output = output
        with ThreadPoolExecutor(1) as aside:  # both take most of a start, and onnxruntime lets go of the GIL
            session = aside.submit(Session, model, device=device, output=output)
            self._tokenizer = TextTokenizer(tokenizer, parallel=num_threads > 1)
            self._session = session.result()
        if self._tokenizer.max_tokens != max_tokens:
            raise FolderError(
                f"{tokenizer} cuts at {self._tokenizer.max_tokens} tokens, the manifest says {max_tokens}; "
                f"export the bundle again"
            )

    def map_table(self) -> None:
        """Read a row of every stretch of the token table, so that all of it is mapped, in some milliseconds.

        Otherwise every new word maps a little more, in front of its caller, and memory seems to grow for hours.
        """
        self.run_tokens([range(0, self._tokenizer.size, _ROWS_A_STRETCH)])

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Turn texts into token ids, cut at `max_tokens`."""
        tokenized = self._tokenizer.tokenize(texts)
        if num_cut := sum(tokenized.is_cut):
            with self._counting:
                self.num_cut += num_cut
        return tokenized

    def run_tokens(self, ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Return the row of each tokenized text, on as many threads as allowed: (N, W) float32.

        Raises:
            EncodeError: a row is no unit vector, or no probabilities that sum to 1.
        """
        rows = np.empty((len(ids), self.width), dtype=np.float32)
        batches = list(make_batches(ids, max_batch_tokens=_BATCH_TOKENS[self.device], pad_id=self._tokenizer.pad_id))

        def run(places: npt.NDArray[np.int64], batch: TokenBatch) -> None:
            given = self._session.run(batch)
            if given.shape != (len(places), self.width):
                found = " × ".join(map(str, given.shape))
                raise FolderError(f"{self.model} gives vectors of {found}, its manifest says {self.width}")
            rows[places] = given

        if self.num_threads == 1 or len(batches) == 1 or self.device != "cpu":
            for places, batch in batches:
                run(places, batch)
        else:  # a session on each thread's own batch beats one batch split over threads
            with ThreadPoolExecutor(min(self.num_threads, max(1, len(batches)))) as pool:
                for future in [pool.submit(run, places, batch) for places, batch in reversed(batches)]:
                    future.result()
        self._require_sound(rows, ids)
        return rows

    def _require_sound(self, rows: npt.NDArray[np.float32], ids: Sequence[Sequence[int]]) -> None:
        """Refuse rows that cannot be right. A text of no token but special ones may have the zero vector."""
        with np.errstate(all="ignore"):
            is_vector = self._output == "sentence_embedding"
            sizes = np.linalg.norm(rows, axis=1) if is_vector else rows.sum(axis=1)
            wrong = np.flatnonzero(~(np.abs(sizes - 1) <= _TOLERANCE))  # NaN is wrong too
        for place in wrong.tolist():
            if is_vector and not sizes[place] and self._tokenizer.special_ids.issuperset(ids[place]):
                continue
            size = "vectors of length" if is_vector else "probabilities that sum to"
            raise EncodeError(f"{self.model} gives {size} {sizes[place]:.3g}, not 1; export the bundle again")

    def run(self, texts: Sequence[str], *, what: str, progress: Progress = no_progress) -> Rows:
        """Tokenize texts and run them, some thousands at a time; say how many were cut."""
        rows = np.empty((len(texts), self.width), dtype=np.float32)
        num_tokens: list[int] = []
        is_cut: list[bool] = []
        for start in range(0, len(texts), _WINDOW_TEXTS):
            tokenized = self.tokenize(texts[start : start + _WINDOW_TEXTS])
            stop = start + len(tokenized.ids)
            rows[start:stop] = self.run_tokens(tokenized.ids)
            num_tokens += tokenized.num_tokens
            is_cut += tokenized.is_cut
            progress(what, stop, len(texts))
        if (num_cut := sum(is_cut)) and self._output == "sentence_embedding":  # a label is told by a beginning too
            _logger.warning("%d of %d texts were cut at %d tokens", num_cut, len(texts), self.max_tokens)
        return Rows(rows=rows, num_tokens=num_tokens, is_cut=is_cut)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens included, before any cut."""
        return self._tokenizer.count(texts)
