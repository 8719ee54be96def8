"""Teachers of labels: a transformers sequence classifier, or an embedder with a head of its own.

Both give log-probabilities (N, K): their softmax at any temperature is that of the logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from kdserve.datatypes import Progress, require_texts
from kdserve.distill.data.corpus import Corpus
from kdserve.distill.hardware import best_device, supports_bf16
from kdserve.distill.teachers.embedder import Teacher, VectorCache, fingerprint_folder
from kdserve.distill.teachers.head import Head
from kdserve.errors import FolderError
from kdserve.quiet import quiet_transformers

Scores = npt.NDArray[np.float16]
"""(N, K) log-probabilities."""


class LabelTeacher(Protocol):
    """Teacher of soft labels."""

    labels: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the soft labels depend on."""

    @property
    def body(self) -> Any:
        """The transformers model inside."""

    @property
    def body_tokenizer(self) -> Tokenizer:
        """Tokenizer of the body."""

    def score(self, texts: Sequence[str]) -> Scores:
        """Log-probabilities of the texts' labels: (N, K)."""

    def score_sources(self, corpus: Corpus, *, cache: Path, progress: Progress) -> Scores:
        """Log-probabilities of the corpus's source sentences: (S, K)."""


class SequenceTeacher:
    """A folder with a transformers sequence classifier."""

    def __init__(self, folder: Path, *, batch_size: int) -> None:
        """Open the folder.

        Raises:
            FolderError: no sequence classifier, or one with a single output.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise FolderError(f"{folder} has no config.json; name a folder with a transformers sequence classifier")
        try:
            with quiet_transformers():
                self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    folder,
                    local_files_only=True,
                    output_loading_info=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                )
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise FolderError(f"{folder} is no sequence classifier ({reason}); check classifier.teacher") from error
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])[0]
            raise FolderError(f"{folder} lacks trained weights ({missing}); name a trained sequence classifier")
        names = model.config.id2label
        self.labels = tuple(str(names[number]) for number in range(len(names)))
        if len(self.labels) < 2:
            raise FolderError(f"{folder} has a single output; a teacher of labels needs two or more")
        self._device = torch.device(best_device())
        self._model = model.to(self._device).eval()
        self._batch_size = batch_size
        self._fingerprint = fingerprint_folder(folder)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted checksums of the model's files."""
        return self._fingerprint

    @property
    def body(self) -> Any:
        """The transformers model under the classifying head."""
        return self._model.base_model

    @property
    def body_tokenizer(self) -> Tokenizer:
        """Tokenizer of the body."""
        tokenizer: Tokenizer = self._tokenizer.backend_tokenizer
        return tokenizer

    @property
    def dim(self) -> int:
        """Number of labels: the width of what a `VectorCache` keeps."""
        return len(self.labels)

    def encode_fast(self, texts: Sequence[str]) -> Scores:
        """As `score`: what a `VectorCache` asks for."""
        return self.score(texts)

    @torch.no_grad()
    def score(self, texts: Sequence[str]) -> Scores:
        """Log-probabilities of the texts' labels, under bf16 where the machine has it: (N, K)."""
        texts = require_texts(texts)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        scores = np.empty((len(texts), len(self.labels)), dtype=np.float16)
        for begin in range(0, len(order), self._batch_size):
            rows = order[begin : begin + self._batch_size]
            batch = self._tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
            with torch.autocast(self._device.type, torch.bfloat16, enabled=supports_bf16(self._device)):
                logits = self._model(**batch.to(self._device)).logits
            scores[rows] = logits.float().log_softmax(dim=-1).clamp_min(-1e4).cpu().numpy()
        return scores

    def score_sources(self, corpus: Corpus, *, cache: Path, progress: Progress) -> Scores:
        """Log-probabilities of the source sentences, each computed once: (S, K)."""
        kept = VectorCache(cache, teacher=self)
        kept.fill(corpus, progress=progress)
        return kept.vectors[kept.rows_of(corpus)]


class HeadTeacher:
    """An embedder of sentences with a linear head."""

    def __init__(self, embedder: Teacher, head: Head, labels: tuple[str, ...]) -> None:
        self.embedder, self.head, self.labels = embedder, head, labels

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the embedder's fingerprint and the head's weights."""
        head = b"".join(part.numpy().tobytes() for part in (self.head.weight_DK, self.head.bias_K))
        return hashlib.sha256(self.embedder.fingerprint.encode() + head).hexdigest()

    @property
    def body(self) -> Any:
        """The embedder's transformers model."""
        return self.embedder.body

    @property
    def body_tokenizer(self) -> Tokenizer:
        """Tokenizer of the body."""
        return self.embedder.body_tokenizer

    def score(self, texts: Sequence[str]) -> Scores:
        """Log-probabilities of the texts' labels: (N, K)."""
        return self._score(self.embedder.encode_document(texts))

    def score_sources(self, corpus: Corpus, *, cache: Path, progress: Progress) -> Scores:
        """Log-probabilities of the source sentences, from the vectors that other runs keep too: (S, K)."""
        kept = VectorCache(cache, teacher=self.embedder)
        kept.fill(corpus, progress=progress)
        rows, vectors = kept.rows_of(corpus), kept.vectors
        parts = [self._score(vectors[rows[begin : begin + 65_536]]) for begin in range(0, len(rows), 65_536)]
        return np.concatenate(parts)

    def _score(self, vectors: npt.NDArray[np.floating]) -> Scores:
        logits = self.head.logits(torch.from_numpy(vectors.astype(np.float32)))
        scores: Scores = logits.log_softmax(dim=-1).clamp_min(-1e4).numpy().astype(np.float16)
        return scores
