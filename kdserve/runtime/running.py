"""Texts through a bundle's tokenizer and graph: one row of numbers a text, whatever the graph gives.

N texts, W width of a row
"""

from __future__ import annotations

import logging
import math
import threading
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Progress, no_progress
from kdserve.errors import EncodeError, FolderError
from kdserve.model_settings import Family
from kdserve.runtime.batches import PackedIds, make_batches, pack_ids
from kdserve.runtime.session import Device, Output
from kdserve.runtime.sessions import Sessions
from kdserve.runtime.threads import KeptThreads, available_threads
from kdserve.runtime.tokens import TextTokenizer, TokenizedTexts

_logger = logging.getLogger("kdserve")
TOKENS_A_THREAD = {"static": 1536, "transformer": 64}
"""Work for which starting a thread pays, by a model's family."""
SPARE_TOKENS = {"static": 128, "transformer": 0}
"""Padding that costs less than to run a graph once more, where a sum over tokens, in order, is all that sees it."""
_WINDOW_TEXTS = 4096
_TOLERANCE = 0.01
_ROWS_A_STRETCH = 128  # Linux maps 64 KiB around what is touched, where the file is in memory
_BATCH_TOKENS = {"cpu": 256, "cuda": 32768}


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
        family: Family,
        output: Output = "sentence_embedding",
    ) -> None:
        """Open both files. `family` says how work is shared out, and whether tokens may have rows of zeros.

        Raises:
            FolderError: one of them cannot be opened, or the tokenizer cuts elsewhere than at `max_tokens`.
        """
        self.model, self.width, self.max_tokens = model, width, max_tokens
        self.device, self.num_threads, self._family = device, num_threads, family
        self._tokens_a_thread = TOKENS_A_THREAD[family]
        self._spare_tokens = SPARE_TOKENS[family] if device == "cpu" else 0
        self.num_cut = 0
        self._others = KeptThreads(num_threads - 1)
        self._counting = threading.Lock()
        self._output = output
        with ThreadPoolExecutor(1) as aside:  # both take most of a start, and onnxruntime lets go of the GIL
            most = max(num_threads, available_threads()) if device == "cpu" else 1  # callers may be threads too
            sessions = aside.submit(Sessions, model, device=device, output=output, most=most)
            self._tokenizer = TextTokenizer(tokenizer, parallel=num_threads > 1)
            self._sessions = sessions.result()
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
        self._count_cut(tokenized.is_cut)
        return tokenized

    def _count_cut(self, is_cut: list[bool]) -> int:
        if num_cut := sum(is_cut):
            with self._counting:
                self.num_cut += num_cut
        return num_cut

    def run_tokens(self, ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Return the row of each tokenized text, on as many threads as allowed: (N, W) float32.

        Raises:
            EncodeError: a row is no unit vector, or no probabilities that sum to 1.
        """
        rows = np.empty((len(ids), self.width), dtype=np.float32)
        self._fill(rows, pack_ids(ids))
        return rows

    def run(self, texts: Sequence[str], *, what: str, progress: Progress = no_progress) -> npt.NDArray[np.float32]:
        """Tokenize texts and run them, some thousands at a time; say how many were cut. Else as `run_tokens`."""
        rows = np.empty((len(texts), self.width), dtype=np.float32)
        num_cut = 0
        for start in range(0, len(texts), _WINDOW_TEXTS):
            packed, is_cut = self._tokenizer.pack(texts[start : start + _WINDOW_TEXTS])
            num_cut += self._count_cut(is_cut)
            stop = start + len(packed)
            self._fill(rows[start:stop], packed)
            progress(what, stop, len(texts))
        if num_cut and self._output == "sentence_embedding":  # a label is told by a beginning too
            _logger.warning("%d of %d texts were cut at %d tokens", num_cut, len(texts), self.max_tokens)
        return rows

    def _fill(self, rows: npt.NDArray[np.float32], packed: Sequence[PackedIds]) -> None:
        """Compute the rows of some texts. Python's own work stays on this thread: two would take turns at it, each
        with a cold cache. Graphs need no interpreter; a session on each thread's own batch beats one batch split.
        """
        limit = max(_BATCH_TOKENS[self.device], self._tokens_a_thread)
        pad_id, spare = self._tokenizer.pad_id, self._spare_tokens
        batches = list(make_batches(packed, max_batch_tokens=limit, pad_id=pad_id, spare_tokens=spare))
        most = self.num_threads if self.device == "cpu" else 1
        num_threads = min(most, len(batches), sum(batch.ids.size for _, batch in batches) // self._tokens_a_thread)
        batches.sort(key=lambda batch: batch[1].ids.size)  # the largest first, so that all threads end together

        def run() -> None:
            with self._sessions.one() as session:
                while batches:
                    try:
                        places, batch = batches.pop()
                    except IndexError:  # another thread took the last
                        return
                    given = session.run(batch)
                    if given.shape != (len(places), self.width):
                        found = " × ".join(map(str, given.shape))
                        raise FolderError(f"{self.model} gives vectors of {found}, its manifest says {self.width}")
                    rows[places] = given

        if num_threads < 2:
            run()
        else:
            pool = self._others.pool()
            others = [pool.submit(run) for _ in range(num_threads - 1)]
            try:
                run()
            finally:
                batches.clear()  # after an error or Ctrl-C the others need not go on
            for other in others:
                if not other.cancel():  # one that is still waiting, busy with another call, is not needed
                    other.result()
        self._require_sound(rows, packed)

    def _require_sound(self, rows: npt.NDArray[np.float32], packed: Sequence[PackedIds]) -> None:
        """Refuse rows that cannot be right.

        The zero vector is right for a text of no token but special ones, and for one of tokens that a static student
        learnt nothing of.
        """
        is_vector, least, most = self._output == "sentence_embedding", 1 - _TOLERANCE, 1 + _TOLERANCE
        # einsum alone says nothing of what overflows; and Python looks at a few numbers quicker than numpy
        sums = (np.einsum("nw,nw->n", rows, rows) if is_vector else np.einsum("nw->n", rows)).tolist()
        sizes = [math.sqrt(one) for one in sums] if is_vector else sums
        for place, size in enumerate(sizes):
            if least <= size <= most:  # NaN is wrong too
                continue
            if is_vector and not size and self._may_say_nothing(packed[place]):
                continue
            what = "vectors of length" if is_vector else "probabilities that sum to"
            raise EncodeError(f"{self.model} gives {what} {size:.3g}, not 1; export the bundle again")

    def _may_say_nothing(self, packed: PackedIds) -> bool:
        return self._family == "static" or self._tokenizer.special_ids.issuperset(array("i", packed))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens included, before any cut."""
        return self._tokenizer.count(texts)
