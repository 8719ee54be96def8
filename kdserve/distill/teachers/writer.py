"""The teacher of a student that writes, and what it wrote, on disk: each text once, whatever learns from it.

Letters: B batch, T and L tokens read and written, V vocabulary, K tokens kept of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.corpus import Corpus, digest_of
from kdserve.distill.data.sides import Sides, open_sides
from kdserve.distill.hardware import best_device, supports_bf16
from kdserve.distill.teachers.embedder import filling, find_teacher, fingerprint_folder
from kdserve.distill.teachers.encoder_decoder import EncoderDecoder, open_writer
from kdserve.distill.teachers.translator import TranslatorTeacher, find_translator
from kdserve.errors import FolderError
from kdserve.quiet import quiet_transformers
from kdserve.recipe import SequenceRecipe, WriterTeacherRecipe

_CHUNK = 512


class WriterTeacher:
    """An encoder-decoder with its tokenizers."""

    def __init__(self, folder: Path, settings: WriterTeacherRecipe, *, max_tokens: int, max_output_tokens: int) -> None:
        self.settings, self.max_tokens, self.max_output_tokens = settings, max_tokens, max_output_tokens
        self.device = torch.device(best_device())
        self.fingerprint = fingerprint_folder(folder)
        model = open_writer(folder)
        self.sides: Sides = open_sides(
            folder,
            paddings=paddings_of(model.config),
            prefix=settings.prefix,
            source_codes=settings.source_codes,
            target_code=settings.target_code,
        )
        self.writer = EncoderDecoder(model).to(self.device).eval().requires_grad_(False)

    @property
    def outputs_key(self) -> str:
        """SHA-256 of what its outputs depend on, but for the texts."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in _NO_MATTER}
        return digest_of(self.fingerprint, settings, self.max_tokens, self.max_output_tokens)

    def write(self, texts: Sequence[str], *, language: str) -> list[list[str]]:
        """Return `candidates` outputs a text, the best first."""
        settings, found = self.settings, []
        for start in range(0, len(texts), settings.batch_size):
            batch = texts[start : start + settings.batch_size]
            rows = self.sides.read(batch, language=language, most=self.max_tokens)
            ids, mask = (part.to(self.device) for part in filled(rows, self.sides.paddings[0]))
            with torch.inference_mode(), self._autocast(), quiet_transformers():
                written = self.writer.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=False,
                    num_beams=settings.num_beams,
                    num_return_sequences=settings.candidates,
                    length_penalty=settings.length_penalty,
                    max_new_tokens=self.max_output_tokens,
                    forced_bos_token_id=self.sides.first,
                )
            outputs = self.sides.texts(written.tolist())
            found += [outputs[i : i + settings.candidates] for i in range(0, len(outputs), settings.candidates)]
        return found

    def likeliest(self, ids_BT: Tensor, mask_BT: Tensor, label_BL: Tensor, top: int) -> tuple[Tensor, Tensor]:
        """Return the `top` likeliest tokens at each place, and their log probabilities: (B, L, K) both."""
        with torch.inference_mode(), self._autocast():
            parts = (part.to(self.device) for part in (ids_BT, mask_BT, label_BL))
            logits = self.writer(*parts).logits.float()
        values, tokens = logits.log_softmax(dim=-1).topk(top, dim=-1)
        return tokens.cpu(), values.cpu()

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=supports_bf16(self.device))


_NO_MATTER = ("model", "revision", "batch_size")


def open_writer_teacher(recipe: SequenceRecipe) -> WriterTeacher | TranslatorTeacher:
    """Open a recipe's teacher: a folder, below `data_dir` or not, a hub name at a pinned revision, or a bundle.

    Raises:
        FolderError: no such model, two folders of the name, or a hub name without a revision.
        RecipeError: its tokenizer does not know a language that is named, or more than outputs is asked of a bundle.
    """
    if bundle := find_translator(recipe):
        return TranslatorTeacher(bundle, recipe.teacher)
    settings = recipe.teacher
    folder = find_teacher(settings.model, revision=settings.revision, data_dir=recipe.data_dir)
    limits = {"max_tokens": recipe.student.max_tokens, "max_output_tokens": recipe.student.max_output_tokens}
    return WriterTeacher(folder, settings, **limits)


class OutputCache:
    """What a teacher wrote, in a folder that is named after it and its settings.

    A line of `outputs.jsonl` is a text's key and its outputs; lines only ever come behind others, from the one process
    that holds the folder's lock. A line that a kill cut short is written anew.
    """

    def __init__(self, folder: Path, teacher: WriterTeacher | TranslatorTeacher) -> None:
        self.teacher, self.folder = teacher, folder / teacher.outputs_key[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "outputs.jsonl"

    def fill(self, corpus: Corpus, pairs: npt.NDArray[np.int64], *, progress: Progress = no_progress) -> None:
        """Write what is missing for the read sides of these pairs, language by language, short texts first.

        Where another process does so, it is waited for.
        """
        if not self._missing(corpus, pairs):
            progress("teacher's outputs", len(pairs), len(pairs))
            return
        with filling(self.folder), self.path.open("ab") as file:
            file.truncate(len(self._whole_lines()))
            missing = self._missing(corpus, pairs)
            done = len(pairs) - len(missing)
            sizes = corpus.translations.ends - corpus.translations.starts
            missing.sort(key=lambda number: (corpus.language_of[number], sizes[number]))
            progress("teacher's outputs", done, len(pairs))
            for part in _chunks(corpus, missing):
                language = corpus.languages[corpus.language_of[part[0]]]
                outputs = self.teacher.write(corpus.translations.select(part), language=language)
                rows = zip(part, outputs, strict=True)
                lines = "".join(json.dumps([output_key(corpus, number), row]) + "\n" for number, row in rows)
                file.write(lines.encode())
                file.flush()
                done += len(part)
                progress("teacher's outputs", done, len(pairs))

    def read(self) -> dict[str, list[str]]:
        """Return all outputs by key.

        Raises:
            FolderError: a line is damaged.
        """
        found: dict[str, list[str]] = {}
        for number, line in enumerate(self._whole_lines().splitlines(), start=1):
            try:
                key, outputs = json.loads(line)
                if not (isinstance(outputs, list) and all(isinstance(text, str) for text in (key, *outputs))):
                    raise ValueError("no key and texts")
                found[key] = outputs
            except (ValueError, TypeError, RecursionError) as error:
                raise FolderError(f"{self.path} line {number} is damaged ({error}); remove the line") from error
        return found

    def _missing(self, corpus: Corpus, pairs: npt.NDArray[np.int64]) -> list[int]:
        known = self.read()
        return [number for number in pairs.tolist() if output_key(corpus, number) not in known]

    def _whole_lines(self) -> bytes:
        """The lines that are whole; the last may be one that is being written, or that a kill cut short."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        return content[: content.rfind(b"\n") + 1]


def output_key(corpus: Corpus, pair: int) -> str:
    """128-bit key (hex) of what a pair's outputs depend on: language and text."""
    text = f"{corpus.languages[corpus.language_of[pair]]}\t{corpus.translations[pair]}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def paddings_of(config: Any) -> tuple[int, int]:
    """Return the padding tokens of what an encoder-decoder reads and writes."""
    sides = (config.encoder, config.decoder) if config.model_type == "encoder-decoder" else (config, config)
    return int(sides[0].pad_token_id), int(sides[1].pad_token_id)


def filled(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Return rows of tokens as (B, T), filled up, and their mask."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def _chunks(corpus: Corpus, numbers: Sequence[int]) -> Iterator[list[int]]:
    """Yield pairs of one language each."""
    part: list[int] = []
    for number in numbers:
        if part and (len(part) == _CHUNK or corpus.language_of[number] != corpus.language_of[part[0]]):
            yield part
            part = []
        part.append(number)
    if part:
        yield part
