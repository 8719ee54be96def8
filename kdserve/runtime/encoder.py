"""Texts in, unit vectors out: what an application holds in its hand.

N texts, D width of an embedding
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kdserve.datatypes import Embeddings, Progress, TokenBatch, no_progress, require_texts
from kdserve.errors import EncodeError, FolderError
from kdserve.runtime.batches import make_batches
from kdserve.runtime.bundle import Bundle, BundleSettings, open_bundle
from kdserve.runtime.published import find_bundle
from kdserve.runtime.session import Device, Session
from kdserve.runtime.threads import available_threads
from kdserve.runtime.tokens import TextTokenizer

_logger = logging.getLogger("kdserve")
_WINDOW_TEXTS = 4096
_BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}


class Encoder:
    """A bundle, opened. One text has one vector: alone, in any batch, at any position, with any number of threads.

    Safe to call from several threads. `num_cut` counts the texts cut at `max_tokens` since loading.
    """

    def __init__(self, bundle: Bundle, *, device: Device, num_threads: int) -> None:
        self.bundle = bundle
        self.device = device
        self.num_threads = num_threads
        self.num_cut = 0
        with ThreadPoolExecutor(1) as aside:  # both take most of a start, and onnxruntime lets go of the GIL
            session = aside.submit(Session, bundle.model, device=device)
            self._tokenizer = TextTokenizer(bundle.tokenizer, parallel=num_threads > 1)
            self._session = session.result()
        if self._tokenizer.max_tokens != self.max_tokens:
            raise FolderError(
                f"{bundle.tokenizer} cuts at {self._tokenizer.max_tokens} tokens, the manifest says {self.max_tokens}; "
                f"export the bundle again"
            )

    @classmethod
    def load(cls, folder_or_name: str | Path, *, device: Device = "cpu", num_threads: int | None = None) -> Encoder:
        """Open a bundle folder or a published student by name.

        `num_threads` defaults to the CPUs that this process really has, container quotas included.

        Raises:
            FolderError: no such bundle, or one whose files are not those that its manifest lists.
            EncodeError: the device is not there, or `num_threads` is below 1.
            MissingExtraError: onnxruntime is not installed.
        """
        if num_threads is not None and num_threads < 1:
            raise EncodeError(f"num_threads is {num_threads}; give 1 or more")
        bundle = open_bundle(find_bundle(folder_or_name))
        return cls(bundle, device=device, num_threads=num_threads or available_threads())

    @property
    def settings(self) -> BundleSettings:
        """What the bundle's manifest says: family, precision, prompts, the record of the export gate."""
        return self.bundle.settings

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self.settings.dim

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the bundle's files; an index is bound to it."""
        return self.bundle.fingerprint

    @property
    def parents(self) -> Mapping[str, str]:
        """Fingerprints of what the bundle was made from: "student" and "teacher"."""
        return self.bundle.parents

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO codes of the languages that the student was made for."""
        return self.settings.languages

    @property
    def max_tokens(self) -> int:
        """Texts are cut after so many tokens, special tokens included."""
        return self.settings.max_tokens

    def encode_query(self, texts: Sequence[str], *, progress: Progress = no_progress) -> Embeddings:
        """Embed queries: (N, D) float32 of unit rows, (0, D) for the empty list.

        A text without a single token (the empty one, for some students) has the zero vector.

        Raises:
            TypeError: `texts` is a bare str, or an item is no str.
            EncodeError: a text is no valid Unicode.
        """
        return self._encode(texts, self.settings.prompts.query, progress)

    def encode_document(self, texts: Sequence[str], *, progress: Progress = no_progress) -> Embeddings:
        """Embed documents, as `encode_query`."""
        return self._encode(texts, self.settings.prompts.document, progress)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text as a document, prompt and special tokens included, before any cut."""
        require_texts(texts)
        return self._tokenizer.count([self.settings.prompts.document + text for text in texts])

    def _encode(self, texts: Sequence[str], prompt: str, progress: Progress) -> Embeddings:
        require_texts(texts)
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        num_cut = 0
        for start in range(0, len(texts), _WINDOW_TEXTS):
            window = texts[start : start + _WINDOW_TEXTS]
            num_cut += self._encode_window([prompt + text for text in window], vectors[start : start + len(window)])
            progress("embed", start + len(window), len(texts))
        if num_cut:
            self.num_cut += num_cut
            _logger.warning("%d of %d texts were cut at %d tokens", num_cut, len(texts), self.max_tokens)
        return vectors

    def _encode_window(self, texts: list[str], out: Embeddings) -> int:
        """Fill `out` with the vectors of `texts`, on as many threads as allowed; return how many texts were cut."""
        tokenized = self._tokenizer.tokenize(texts)
        batches = list(
            make_batches(tokenized.ids, max_batch_tokens=_BATCH_TOKENS[self.device], pad_id=self._tokenizer.pad_id)
        )

        def embed(rows: np.ndarray[tuple[int], np.dtype[np.int64]], batch: TokenBatch) -> None:
            vectors = self._session.run(batch)
            if vectors.shape != (len(rows), self.dim):
                found = " × ".join(map(str, vectors.shape))
                raise FolderError(f"{self.bundle.model} gives vectors of {found}, its manifest says {self.dim}")
            out[rows] = vectors

        if self.num_threads == 1 or len(batches) == 1 or self.device != "cpu":
            for rows, batch in batches:
                embed(rows, batch)
        else:  # a session on each thread's own batch beats one batch split over threads
            with ThreadPoolExecutor(min(self.num_threads, len(batches))) as pool:
                for future in [pool.submit(embed, rows, batch) for rows, batch in reversed(batches)]:
                    future.result()
        return tokenized.num_cut
