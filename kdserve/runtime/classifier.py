"""Texts in, labels out: a classifier bundle on onnxruntime.

N texts, K labels
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Progress, no_progress, require_texts
from kdserve.manifest import unchanged, verify_folder
from kdserve.model_settings import SIZES, ModelSettings
from kdserve.runtime.bundle import MODEL_NAME, TOKENIZER_NAME
from kdserve.runtime.normalizer import is_blank
from kdserve.runtime.published import find_bundle, lasting_name, reopen
from kdserve.runtime.running import Runner
from kdserve.runtime.session import Device
from kdserve.runtime.threads import threads_or_all
from kdserve.runtime.tokens import TokenizedTexts
from kdserve.toml import require

Probabilities = npt.NDArray[np.float32]
"""(N, K) float32, every row sums to 1."""
LEAST_PROBABILITY = 0.5
"""A text whose likeliest language is less so has none: a name or a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierSettings(ModelSettings):
    """Settings in a classifier's manifest, beside its files; `fidelity` is the record of the gate that it passed."""

    precision: str
    labels: tuple[str, ...]
    fidelity: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self, max_tokens=SIZES)
        if len(self.labels) < 2:
            raise ValueError(f"labels has {len(self.labels)}; it must hold two or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The likeliest label of a text and its probability; a blank text has no label, and probability 0."""

    label: str | None
    probability: float


class Classifier:
    """A classifier bundle, opened. One text has one answer: alone, in any batch, with any number of threads.

    Safe to call from several threads, and pickled as an `Encoder` is. `fingerprint` is the SHA-256 (hex) over the
    bundle's files.
    """

    def __init__(
        self, folder: Path, settings: ClassifierSettings, *, fingerprint: str, device: Device, num_threads: int
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.fingerprint = fingerprint
        self._runner = Runner(
            folder / MODEL_NAME,
            folder / TOKENIZER_NAME,
            width=len(settings.labels),
            max_tokens=settings.max_tokens,
            device=device,
            num_threads=num_threads,
            family=settings.family,
            output="probabilities",
        )

    @classmethod
    def load(cls, folder_or_name: str | Path, *, device: Device = "cpu", num_threads: int | None = None) -> Classifier:
        """Open a classifier's folder, or a published one by name.

        Raises:
            FolderError: no such classifier, or one whose files are not those that its manifest lists, or change
                meanwhile.
            EncodeError: the device is not there, or `num_threads` is below 1 or beyond 1,024.
            MissingExtraError: onnxruntime is not installed.
        """
        threads = threads_or_all(num_threads)
        folder = find_bundle(folder_or_name, kind="classifier")
        with unchanged(folder):
            manifest = verify_folder(folder, kind="classifier", needs=(MODEL_NAME, TOKENIZER_NAME))
            return cls(
                folder,
                ClassifierSettings.from_manifest(manifest, folder),
                fingerprint=manifest.fingerprint,
                device=device,
                num_threads=threads,
            )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[type[Classifier], str, str, Device, int]]:
        source = lasting_name(self.folder, self.settings.name)
        return reopen, (Classifier, source, self.fingerprint, self._runner.device, self._runner.num_threads)

    @property
    def labels(self) -> tuple[str, ...]:
        """The K labels, in the order of the probabilities."""
        return self.settings.labels

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO codes of the languages that the classifier was made for."""
        return self.settings.languages

    @property
    def max_tokens(self) -> int:
        """Texts are cut after so many tokens, special tokens included."""
        return self.settings.max_tokens

    @property
    def num_cut(self) -> int:
        """How many texts were cut at `max_tokens` since loading."""
        return self._runner.num_cut

    def probabilities(self, texts: Iterable[str], *, progress: Progress = no_progress) -> Probabilities:
        """Return each label's probability: (N, K) float32, (0, K) for the empty list.

        Raises:
            TypeError: `texts` is a bare str, a mapping or a set, or an item is no str.
            EncodeError: a text is no valid Unicode.
        """
        return self._runner.run(require_texts(texts), what="classify", progress=progress)

    def tokenize(self, texts: Iterable[str]) -> TokenizedTexts:
        """Return the token ids that `probabilities` would read, and which texts are cut there. Raises likewise."""
        return self._runner.tokenize(require_texts(texts))

    def token_probabilities(self, ids: Sequence[Sequence[int]]) -> Probabilities:
        """Return each label's probability by the ids that `tokenize` gave: (N, K) float32."""
        return self._runner.run_tokens(ids)

    def classify(self, texts: Iterable[str], *, progress: Progress = no_progress) -> list[Prediction]:
        """Return the likeliest label of each text, none for a blank one. Raises as `probabilities`."""
        given = require_texts(texts)
        rows = self.probabilities(given, progress=progress)
        best = rows.argmax(axis=1) if len(rows) else ()
        return [
            Prediction(label=None, probability=0.0)
            if is_blank(text)
            else Prediction(label=self.labels[place], probability=float(row[place]))
            for text, row, place in zip(given, rows, best, strict=True)
        ]
