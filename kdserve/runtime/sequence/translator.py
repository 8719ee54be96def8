"""Texts in, texts out: a bundle that translates or summarises, on onnxruntime.

N texts, B rows of a batch, S source tokens
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdserve.datatypes import Progress, no_progress, require_texts
from kdserve.errors import EncodeError, FolderError
from kdserve.manifest import unchanged
from kdserve.runtime.normalizer import is_blank
from kdserve.runtime.published import find_bundle, lasting_name, reopen
from kdserve.runtime.sequence.names import restore_names
from kdserve.runtime.sequence.numbers import Kept, numbers_of
from kdserve.runtime.sequence.paragraphs import Output, plan_texts
from kdserve.runtime.sequence.settings import (
    SOURCE_NAME,
    TARGET_NAME,
    Generation,
    TranslatorBundle,
    TranslatorSettings,
    open_translator_bundle,
)
from kdserve.runtime.sequence.target import TargetTokenizer
from kdserve.runtime.sequence.writing import Writer
from kdserve.runtime.session import Device
from kdserve.runtime.threads import threads_or_all
from kdserve.runtime.tokens import TextTokenizer

_logger = logging.getLogger("kdserve")
_WINDOW_PIECES = 2048


class Translator:
    """A translator's or summariser's bundle, opened. One text has one output: alone, in any batch, on any threads.

    Safe to call from several threads, and pickled as an `Encoder` is.
    """

    def __init__(self, bundle: TranslatorBundle, *, device: Device, num_threads: int) -> None:
        self.bundle = bundle
        self.device = device
        self.num_threads = num_threads
        self.num_cut = 0
        self._counting = threading.Lock()
        settings = bundle.settings
        with ThreadPoolExecutor(1) as aside:
            writer = aside.submit(Writer, bundle.folder, device=device, num_threads=num_threads)
            self._source = TextTokenizer(bundle.folder / SOURCE_NAME, parallel=num_threads > 1)
            self._target = TargetTokenizer(bundle.folder / TARGET_NAME)
            self._writer = writer.result()
        if self._source.max_tokens != settings.max_tokens:
            raise FolderError(
                f"{bundle.folder / SOURCE_NAME} cuts at {self._source.max_tokens} tokens, the manifest says "
                f"{settings.max_tokens}; export the translator again"
            )
        self._source_ids = self._ids_of(settings.source_tokens, self._source.added_ids.get)
        self._target_ids = self._ids_of(settings.target_tokens, self._target.id_of)

    @classmethod
    def load(cls, folder_or_name: str | Path, *, device: Device = "cpu", num_threads: int | None = None) -> Translator:
        """Open a translator's folder, or a published one by name.

        `num_threads` defaults to the CPUs that this process really has, container quotas included.

        Raises:
            FolderError: no such translator, or one whose files are not those that its manifest lists, or change
                meanwhile.
            EncodeError: the device is not there, or `num_threads` is below 1 or beyond 1,024.
            MissingExtraError: onnxruntime is not installed.
        """
        threads = threads_or_all(num_threads)
        folder = find_bundle(folder_or_name, kind="translator")
        with unchanged(folder):
            bundle = open_translator_bundle(folder)
            return cls(bundle, device=device, num_threads=threads)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[type[Translator], str, str, Device, int]]:
        source = lasting_name(self.bundle.folder, self.settings.name)
        return reopen, (Translator, source, self.fingerprint, self.device, self.num_threads)

    @property
    def settings(self) -> TranslatorSettings:
        """What the bundle's manifest says: task, languages, limits, how outputs are found, the record of its gate."""
        return self.bundle.settings

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the bundle's files."""
        return self.bundle.fingerprint

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO codes of the languages that are read, the weak ones behind the others."""
        return *self.settings.languages, *self.settings.weak_languages

    @property
    def targets(self) -> tuple[str, ...]:
        """ISO codes of the languages that are written; none: that of the text."""
        return self.settings.targets

    def translate(
        self,
        texts: Iterable[str],
        *,
        source: str = "",
        target: str = "",
        num_beams: int = 0,
        length_penalty: float | None = None,
        no_repeat_ngram: int | None = None,
        keep_numbers: bool | None = None,
        keep_names: float | None = None,
        max_output_tokens: int = 0,
        progress: Progress = no_progress,
    ) -> list[str]:
        """Translate texts, or summarise them, whichever the bundle was made for; a blank text gives the empty one.

        A translator reads line by line and sentence by sentence, and puts lines and paragraphs together as they were; a
        sentence that is too long at once is cut behind a comma or at a space. A summariser reads a text from its
        beginning, as far as `settings.max_tokens`. `source` and `target` name languages, where a bundle knows several
        and is told by a token which. The others default to the bundle's: more than one beam searches wider, in as many
        times the time; with `keep_numbers` a piece that has numbers gets none but those; names that went wrong are
        written as the piece does where they resemble its own by `keep_names`, 0 for no such rule; an output of a piece
        has `max_output_tokens` at most. How many pieces were cut at a limit, read or written, `num_cut` counts and a
        warning says.

        Raises:
            TypeError: `texts` is a bare str, a mapping or a set, or an item is no str.
            EncodeError: a text is no valid Unicode, a language is not known, or a number is out of range.
        """
        outputs = self.write(
            texts,
            source=source,
            target=target,
            num_beams=num_beams,
            length_penalty=length_penalty,
            no_repeat_ngram=no_repeat_ngram,
            keep_numbers=keep_numbers,
            keep_names=keep_names,
            max_output_tokens=max_output_tokens,
            progress=progress,
        )
        if num_cut := sum(output.num_cut for output in outputs):
            _logger.warning("%d pieces of %d texts were cut at their limit", num_cut, len(outputs))
        return [output.text for output in outputs]

    def write(
        self,
        texts: Iterable[str],
        *,
        source: str = "",
        target: str = "",
        num_beams: int = 0,
        length_penalty: float | None = None,
        no_repeat_ngram: int | None = None,
        keep_numbers: bool | None = None,
        keep_names: float | None = None,
        max_output_tokens: int = 0,
        progress: Progress = no_progress,
    ) -> list[Output]:
        """Translate texts as `translate` does, and say of each how much was cut. Raises likewise."""
        rules = self._rules(target, num_beams, length_penalty, no_repeat_ngram, keep_numbers, keep_names)
        if not 0 <= max_output_tokens <= self.settings.max_output_tokens:
            allowed = self.settings.max_output_tokens
            raise EncodeError(f"max_output_tokens is {max_output_tokens}; this bundle writes 1 to {allowed}")
        swap = self._language_swap(source)
        plan = plan_texts(
            require_texts(texts),
            self._source,
            prefix=self.settings.prefix,
            task=self.settings.task,
            target=target or next(iter(self.targets), ""),
        )
        limit = max_output_tokens or self.settings.max_output_tokens
        outputs: list[str] = []
        is_cut: list[bool] = []
        for start in range(0, len(plan.ids), _WINDOW_PIECES):
            pieces = [[swap.get(token, token) for token in ids] for ids in plan.ids[start : start + _WINDOW_PIECES]]
            read = plan.pieces[start : start + _WINDOW_PIECES]
            pad_id, kept = self._source.pad_id, self._kept(rules, read)
            written = self._writer.write(
                pieces, rules, limit=limit, pad_id=pad_id, vocabulary=self._target.size, kept=kept
            )
            outputs += self._read_back(written.ids, rules, read)
            is_cut += written.is_cut
            progress(self.settings.task, start + len(pieces), len(plan.ids))
        with self._counting:
            self.num_cut += sum(is_cut) + sum(plan.is_cut)
        return plan.put_together(outputs, is_cut)

    def candidates(
        self,
        texts: Iterable[str],
        *,
        source: str = "",
        target: str = "",
        num_beams: int = 0,
        length_penalty: float | None = None,
    ) -> list[list[str]]:
        """Return of each text the outputs that its beams brought to an end, the best first: `num_beams` at most.

        A text is read as a whole, cut at `settings.max_tokens`, which `num_cut` counts; a blank one has none. Raises as
        `translate`.
        """
        rules, swap = self._rules(target, num_beams, length_penalty), self._language_swap(source)
        given = require_texts(texts)
        read = self._source.tokenize([self.settings.prefix + text for text in given])
        with self._counting:
            self.num_cut += sum(read.is_cut)
        ids = [[swap.get(token, token) for token in own] for own in read.ids]
        limit, pad_id, kept = self.settings.max_output_tokens, self._source.pad_id, self._kept(rules, given)
        written = self._writer.write(ids, rules, limit=limit, pad_id=pad_id, vocabulary=self._target.size, kept=kept)
        likeliest = [[] if cut else [own] for own, cut in zip(written.ids, written.is_cut, strict=True)]
        outputs = zip(given, written.candidates or likeliest, strict=True)
        return [[] if is_blank(text) else self._read_back(own, rules, [text] * len(own)) for text, own in outputs]

    def tokenize(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the token ids of texts, each read as a whole and cut at `settings.max_tokens`. Raises likewise."""
        return self._source.tokenize([self.settings.prefix + text for text in require_texts(texts)]).ids

    def generate(self, ids: Sequence[Sequence[int]], rules: Generation, *, max_output_tokens: int) -> list[list[int]]:
        """Return the target's token ids for the source's, without start and end: what `translate` stands on.

        Numbers and names are not kept, as ids do not say which there are, nor are runs of a token cut short.

        Raises:
            EncodeError: a graph failed.
        """
        limit, pad_id = max_output_tokens, self._source.pad_id
        return self._writer.write(ids, rules, limit=limit, pad_id=pad_id, vocabulary=self._target.size, grow=0).ids

    def _kept(self, rules: Generation, texts: Sequence[str]) -> Kept | None:
        if not (rules.keep_numbers or rules.max_run):
            return None
        return Kept(self._target.digits, [numbers_of(text) if rules.keep_numbers else () for text in texts])

    def _read_back(self, ids: Sequence[Sequence[int]], rules: Generation, texts: Sequence[str]) -> list[str]:
        outputs = self._target.read_back(ids)
        if not rules.keep_names:
            return outputs
        return [
            restore_names(*pair, self._target.has_word, resemblance=rules.keep_names)
            for pair in zip(texts, outputs, strict=True)
        ]

    def _rules(
        self,
        target: str,
        num_beams: int,
        length_penalty: float | None,
        no_repeat_ngram: int | None = None,
        keep_numbers: bool | None = None,
        keep_names: float | None = None,
    ) -> Generation:
        rules = self.settings.generation
        forced = rules.forced_start_id
        if self._target_ids:
            forced = _chosen(self._target_ids, target, "target", default=forced)
        elif target and target not in self.targets:
            raise EncodeError(f"this bundle writes {', '.join(self.targets) or 'what it reads'}, not {target!r}")
        try:
            return replace(
                rules,
                forced_start_id=forced,
                num_beams=num_beams or rules.num_beams,
                length_penalty=rules.length_penalty if length_penalty is None else length_penalty,
                no_repeat_ngram=rules.no_repeat_ngram if no_repeat_ngram is None else no_repeat_ngram,
                keep_numbers=rules.keep_numbers if keep_numbers is None else keep_numbers,
                keep_names=rules.keep_names if keep_names is None else keep_names,
            )
        except ValueError as error:
            raise EncodeError(str(error)) from error

    def _language_swap(self, source: str) -> dict[int, int]:
        """Which token takes the place of which, so that a source is said to be in that language."""
        if not self._source_ids:
            if source and source not in self.languages:
                raise EncodeError(f"this bundle reads {', '.join(self.languages)}, not {source!r}")
            return {}
        if not source and len(self._source_ids) > 1:
            names = ", ".join(self._source_ids)
            raise EncodeError(f"this bundle must be told the language of the texts; name one as source: {names}")
        chosen = _chosen(self._source_ids, source, "source", default=None)
        return dict.fromkeys(self._source_ids.values(), chosen) if chosen is not None else {}

    def _ids_of(self, tokens: Mapping[str, str], find: Callable[[str], int | None]) -> dict[str, int]:
        found = {language: find(token) for language, token in tokens.items()}
        if missing := [tokens[language] for language, number in found.items() if number is None]:
            raise FolderError(f"{self.bundle.folder} has no token {missing[0]!r}; export the translator again")
        return {language: number for language, number in found.items() if number is not None}


def _chosen(ids: dict[str, int], language: str, what: str, *, default: int | None) -> int | None:
    if not language:
        return next(iter(ids.values())) if len(ids) == 1 else default
    if language not in ids:
        raise EncodeError(f"this bundle knows no {what} language {language!r}; it knows {', '.join(ids)}")
    return ids[language]
