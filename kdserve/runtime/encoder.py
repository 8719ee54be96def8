"""Texts in, unit vectors out: what an application holds in its hand.

N texts, D width of an embedding
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kdserve.datatypes import Embeddings, Progress, no_progress, require_texts
from kdserve.manifest import unchanged
from kdserve.runtime.bundle import Bundle, BundleSettings, open_bundle
from kdserve.runtime.published import find_bundle, lasting_name, reopen
from kdserve.runtime.running import Runner
from kdserve.runtime.session import Device
from kdserve.runtime.threads import threads_or_all
from kdserve.runtime.tokens import TokenizedTexts

Role = Literal["query", "document"]


class Encoder:
    """A bundle, opened. One text has one vector: alone, in any batch, at any position, with any number of threads.

    Safe to call from several threads. Pickled or copied, it is opened again from its folder or published name, and must
    have the same fingerprint there.
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
            family=bundle.settings.family,
        )
        if bundle.settings.family == "static":
            self._runner.map_table()

    @classmethod
    def load(cls, folder_or_name: str | Path, *, device: Device = "cpu", num_threads: int | None = None) -> Encoder:
        """Open a bundle folder or a published student by name.

        `num_threads` defaults to the CPUs that this process really has, container quotas included.

        Raises:
            FolderError: no such bundle, or one whose files are not those that its manifest lists, or change meanwhile.
            EncodeError: the device is not there, or `num_threads` is below 1 or beyond 1,024.
            MissingExtraError: onnxruntime is not installed.
        """
        threads = threads_or_all(num_threads)
        folder = find_bundle(folder_or_name)
        with unchanged(folder):
            return cls(open_bundle(folder), device=device, num_threads=threads)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[type[Encoder], str, str, Device, int]]:
        return reopen, (Encoder, self.source, self.fingerprint, self.device, self.num_threads)

    @property
    def source(self) -> str:
        """What `load` finds it by from another process: its published name, else the bundle's absolute path."""
        return lasting_name(self.bundle.folder, self.settings.name)

    @property
    def settings(self) -> BundleSettings:
        """Settings from the bundle's manifest: family, precision, prompts, the record of the export gate."""
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

    def encode_query(self, texts: Iterable[str], *, progress: Progress = no_progress) -> Embeddings:
        """Embed queries: (N, D) float32 of unit rows, (0, D) for the empty list.

        A text that says nothing to the student has the zero vector: one without a token (the empty one, for some), or
        of such alone as a static student learnt nothing of.

        Raises:
            TypeError: `texts` is a bare str, a mapping or a set, or an item is no str.
            EncodeError: a text is no valid Unicode.
        """
        return self._runner.run(self._prompted(texts, "query"), what="embed", progress=progress)

    def encode_document(self, texts: Iterable[str], *, progress: Progress = no_progress) -> Embeddings:
        """Embed documents, as `encode_query`."""
        return self._runner.run(self._prompted(texts, "document"), what="embed", progress=progress)

    def tokenize(self, texts: Iterable[str], *, role: Role) -> TokenizedTexts:
        """Return the token ids that `encode_query` or `encode_document` would read, and which texts are cut there.

        Raises as `encode_query`.
        """
        return self._runner.tokenize(self._prompted(texts, role))

    def encode_tokens(self, ids: Sequence[Sequence[int]]) -> Embeddings:
        """Embed texts by the ids that `tokenize` gave, of one call or of several put together: (N, D) float32."""
        return self._runner.run_tokens(ids)

    def count_tokens(self, texts: Iterable[str]) -> list[int]:
        """The number of tokens of each text as a document, prompt and special tokens included, before any cut."""
        return self._runner.count_tokens(self._prompted(texts, "document"))

    def _prompted(self, texts: Iterable[str], role: Role) -> list[str]:
        prompt = self.settings.prompts.query if role == "query" else self.settings.prompts.document
        return [prompt + text for text in require_texts(texts)]
