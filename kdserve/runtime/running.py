"""Texts through a bundle's tokenizer and graph: one row of numbers a text, whatever the graph gives.

N texts, W width of a row
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Progress, TokenBatch, no_progress
from kdserve.errors import FolderError
from kdserve.runtime.batches import make_batches
from kdserve.runtime.session import Device, Output, Session
from kdserve.runtime.tokens import TextTokenizer

_logger = logging.getLogger("kdserve")
_WINDOW_TEXTS = 4096
_BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}


class Runner:
    """A tokenizer and a graph, opened. Safe to call from several threads.

    `num_cut` counts the texts cut at `max_tokens` since loading.
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
        with ThreadPoolExecutor(1) as aside:  # both take most of a start, and onnxruntime lets go of the GIL
            session = aside.submit(Session, model, device=device, output=output)
            self._tokenizer = TextTokenizer(tokenizer, parallel=num_threads > 1)
            self._session = session.result()
        if self._tokenizer.max_tokens != max_tokens:
            raise FolderError(
                f"{tokenizer} cuts at {self._tokenizer.max_tokens} tokens, the manifest says {max_tokens}; "
                f"export the bundle again"
            )

    def run(self, texts: Sequence[str], *, what: str, progress: Progress = no_progress) -> npt.NDArray[np.float32]:
        """Return one row a text: (N, W) float32."""
        rows = np.empty((len(texts), self.width), dtype=np.float32)
        num_cut = 0
        for start in range(0, len(texts), _WINDOW_TEXTS):
            window = texts[start : start + _WINDOW_TEXTS]
            num_cut += self._run_window(window, rows[start : start + len(window)])
            progress(what, start + len(window), len(texts))
        if num_cut:
            self.num_cut += num_cut
            _logger.warning("%d of %d texts were cut at %d tokens", num_cut, len(texts), self.max_tokens)
        return rows

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens included, before any cut."""
        return self._tokenizer.count(texts)

    def _run_window(self, texts: Sequence[str], out: npt.NDArray[np.float32]) -> int:
        """Fill `out` with the rows of `texts`, on as many threads as allowed; return how many texts were cut."""
        tokenized = self._tokenizer.tokenize(texts)
        batches = list(
            make_batches(tokenized.ids, max_batch_tokens=_BATCH_TOKENS[self.device], pad_id=self._tokenizer.pad_id)
        )

        def run(rows: npt.NDArray[np.int64], batch: TokenBatch) -> None:
            given = self._session.run(batch)
            if given.shape != (len(rows), self.width):
                found = " × ".join(map(str, given.shape))
                raise FolderError(f"{self.model} gives vectors of {found}, its manifest says {self.width}")
            out[rows] = given

        if self.num_threads == 1 or len(batches) == 1 or self.device != "cpu":
            for rows, batch in batches:
                run(rows, batch)
        else:  # a session on each thread's own batch beats one batch split over threads
            with ThreadPoolExecutor(min(self.num_threads, len(batches))) as pool:
                for future in [pool.submit(run, rows, batch) for rows, batch in reversed(batches)]:
                    future.result()
        return tokenized.num_cut
