"""Texts in, unit vectors out: what an application holds in its hand.

N texts, D width of an embedding
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kdserve.datatypes import Embeddings, Progress, no_progress, require_texts
from kdserve.errors import EncodeError
from kdserve.runtime.bundle import Bundle, BundleSettings, open_bundle
from kdserve.runtime.published import find_bundle
from kdserve.runtime.running import Runner
from kdserve.runtime.session import Device
from kdserve.runtime.threads import available_threads


class Encoder:
    """A bundle, opened. One text has one vector: alone, in any batch, at any position, with any number of threads.

    Safe to call from several threads.
    """

    def __init__(self, bundle: Bundle, *, device: Device, num_threads: int) -> None:
        self.bundle = bundle
        self.device = device
        self.num_threads = num_threads
        self._runner = Runner(
            bundle.model,
            bundle.tokenizer,
            width=bundle.settings.dim,
            max_tokens=bundle.settings.max_tokens,
            device=device,
            num_threads=num_threads,
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
    def num_cut(self) -> int:
        """How many texts were cut at `max_tokens` since loading."""
        return self._runner.num_cut

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO codes of the languages that the student was made for."""
        return self.settings.languages

    @property
    def weak_languages(self) -> tuple[str, ...]:
        """ISO codes of languages that it was made for too, with less to learn from: quality is below the others'."""
        return self.settings.weak_languages

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
        return self._runner.count_tokens([self.settings.prompts.document + text for text in texts])

    def _encode(self, texts: Sequence[str], prompt: str, progress: Progress) -> Embeddings:
        require_texts(texts)
        return self._runner.run([prompt + text for text in texts], what="embed", progress=progress)
