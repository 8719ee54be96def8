"""The training corpus on disk: texts in one blob, everything else in arrays, so that it need not fit in memory.

Letters: S different source sentences, P pairs. A text has a number: translations are 0..P-1, sources P..P+S-1.
The same source sentence occurs in many pairs and is stored, embedded and tokenised once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdserve.datatypes import Progress, no_progress
from kdserve.distill.data.pairs import Pair, digest_files, hash_text, read_pairs
from kdserve.distill.kept import keep, kept
from kdserve.errors import DataError
from kdserve.recipe import PairsRecipe, ValidationRecipe

SOURCE = "en"
"""The code under which source sentences are counted as a language of their own."""
_MOST_NAMES = 2**15 - 1
"""Languages and domains are numbered in 16 bits."""
_RECORD = "corpus.json"
_CHUNK_TEXTS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TextStore:
    """Texts in one UTF-8 blob; text i is bytes `starts[i]` to `ends[i]`."""

    blob: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> str:
        return bytes(self.blob[self.starts[number] : self.ends[number]]).decode()

    def select(self, numbers: Iterable[int]) -> list[str]:
        """Return the texts of these numbers, in this order."""
        return [self[number] for number in numbers]


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Pairs and sources. Arrays over pairs are (P,), over sources (S,); hashes are 64-bit keys of the source texts."""

    translations: TextStore
    sources: TextStore
    source_of: npt.NDArray[np.int32]
    language_of: npt.NDArray[np.int16]
    domain_of: npt.NDArray[np.int16]
    weight_of: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.bool_]
    source_hash: npt.NDArray[np.uint64]
    source_weight: npt.NDArray[np.float32]
    languages: tuple[str, ...]
    domains: tuple[str, ...]
    digest: str
    """SHA-256 (hex) of all of this: what is derived from a corpus is kept under it."""

    def training_pairs(self) -> npt.NDArray[np.int64]:
        """Numbers of the pairs whose source sentence is not held out."""
        return np.flatnonzero(~self.held_out[self.source_of])

    def sources_of(self, texts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the number of each text's source sentence; texts are the P translations, then the S sources."""
        num_pairs = len(self.source_of)
        found = np.where(texts < num_pairs, self.source_of[texts.clip(max=num_pairs - 1)], texts - num_pairs)
        return found.astype(np.int64)

    def languages_of(self, texts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the number of each text's language; sources have the one behind the last."""
        num_pairs = len(self.source_of)
        found = np.where(texts < num_pairs, self.language_of[texts.clip(max=num_pairs - 1)], len(self.languages))
        return found.astype(np.int64)


def build_corpus(recipe: PairsRecipe, folder: Path, *, progress: Progress = no_progress) -> Corpus:
    """Read every source of the recipe into `folder`, or open what was built there from the same recipe and files.

    What came from the hub stands for the data set as long as the folder does.
    """
    key = _corpus_key(recipe)
    record = kept(folder / _RECORD, key)
    if record is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        _write(recipe, folder, key, progress)
        record = kept(folder / _RECORD, key)
    assert record is not None
    return _open(folder, record)


def digest_of(*parts: object) -> str:
    """SHA-256 (hex) of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def iter_texts(store: TextStore, numbers: Sequence[int] | None = None) -> Iterator[list[str]]:
    """Yield the texts, some thousands at once."""
    order = range(len(store)) if numbers is None else numbers
    for start in range(0, len(order), _CHUNK_TEXTS):
        yield store.select(order[start : start + _CHUNK_TEXTS])


def _write(recipe: PairsRecipe, folder: Path, key: str, progress: Progress) -> None:
    writer = _Writer(folder)
    wanted = frozenset(recipe.languages + recipe.weak_languages)
    with writer:
        for data in recipe.data:
            for pair in read_pairs(data, data_dir=Path(recipe.data_dir), languages=wanted):
                writer.add(pair, may_hold_out=data.hold_out)
                if writer.rows % 20_000 == 0:
                    progress("reading pairs", writer.rows, 0)
    if missing := sorted(wanted - writer.languages.keys() - {SOURCE}):
        named = ", ".join(missing)
        raise DataError(f"the recipe names {named}, but its data has no such pair; add some, or fix `languages`")
    writer.finish(recipe.validation, key)
    progress("reading pairs", writer.rows, writer.rows)


class _Writer:
    """Append pairs to the blobs; `finish` numbers the different sources and writes the arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = 0
        self.languages: dict[str, int] = {}
        self.domains: dict[str, int] = {}
        self.texts = {name: (folder / f"{name}.txt").open("wb") for name in ("sources", "translations")}
        self.offsets = {"sources": array("q", [0]), "translations": array("q", [0])}
        self.digest = hashlib.sha256()
        self.hashes, self.weights, self.may_hold_out = array("Q"), array("f"), array("b")
        self.language_of, self.domain_of = array("h"), array("h")

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        for file in self.texts.values():
            file.close()

    def add(self, pair: Pair, *, may_hold_out: bool) -> None:
        for name, text in (("sources", pair.source), ("translations", pair.translation)):
            encoded = text.encode()
            self.texts[name].write(encoded)
            self.digest.update(encoded)
            self.offsets[name].append(self.offsets[name][-1] + len(encoded))
        self.hashes.append(hash_text(pair.source))
        self.language_of.append(self.languages.setdefault(pair.language, len(self.languages)))
        self.domain_of.append(self.domains.setdefault(pair.domain, len(self.domains)))
        if max(len(self.languages), len(self.domains)) > _MOST_NAMES:
            raise DataError(
                f"the data has more than {_MOST_NAMES:,} languages or domains; check language_column and domain_column"
            )
        self.weights.append(pair.weight)
        self.may_hold_out.append(may_hold_out)
        self.rows += 1

    def finish(self, settings: ValidationRecipe, key: str) -> None:
        source_hash, first, source_of = np.unique(np.array(self.hashes), return_index=True, return_inverse=True)
        language = np.array(self.language_of)
        weight = np.array(self.weights)
        lone = language == self.languages.get("", -1)
        # A source is held out by its own hash, so all its translations go together; never one of a lexicon.
        holdable = np.zeros(len(source_hash), dtype=bool)
        np.logical_or.at(holdable, source_of, np.array(self.may_hold_out, dtype=bool) & ~lone)
        held_out = holdable & (source_hash % 1000 < settings.permille)
        source_weight = np.zeros(len(source_hash), dtype=np.float32)
        np.maximum.at(source_weight, source_of, weight)
        ends = {name: np.array(values) for name, values in self.offsets.items()}
        pairs = np.flatnonzero(~lone)
        arrays = {
            "source_starts": ends["sources"][:-1][first],
            "source_ends": ends["sources"][1:][first],
            "translation_starts": ends["translations"][:-1][pairs],
            "translation_ends": ends["translations"][1:][pairs],
            "source_of": source_of[pairs].astype(np.int32),
            "language_of": language[pairs],
            "domain_of": np.array(self.domain_of)[pairs],
            "weight_of": weight[pairs],
            "held_out": held_out,
            "source_hash": source_hash,
            "source_weight": source_weight,
        }
        names = {"languages": list(self.languages), "domains": list(self.domains)}
        self.digest.update(json.dumps(names).encode())
        for name, values in arrays.items():
            np.save(self.folder / f"{name}.npy", values)
            self.digest.update(values.data)
        files = sorted(path for path in self.folder.iterdir() if path.suffix in (".txt", ".npy"))
        keep(self.folder / _RECORD, key, files=files, digest=self.digest.hexdigest(), **names)


def _open(folder: Path, record: Mapping[str, Any]) -> Corpus:
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}

    def store(name: str) -> TextStore:
        path = folder / f"{name}s.txt"
        blob = np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.zeros(0, dtype=np.uint8)
        return TextStore(blob=blob, starts=arrays.pop(f"{name}_starts"), ends=arrays.pop(f"{name}_ends"))

    corpus = Corpus(
        translations=store("translation"),
        sources=store("source"),
        languages=tuple(record["languages"]),
        domains=tuple(record["domains"]),
        digest=record["digest"],
        **arrays,
    )
    if len(corpus.source_of) == 0:
        raise DataError("the recipe's data has source sentences but no pairs; add a source with translations")
    return corpus


def _corpus_key(recipe: PairsRecipe) -> str:
    """What the corpus depends on: the data tables, languages, hold-out share, and the bytes of each file."""
    data_dir = Path(recipe.data_dir)
    files = [digest_files(data, data_dir) for data in recipe.data]
    tables = [asdict(data) for data in recipe.data]
    return digest_of(tables, sorted(recipe.languages + recipe.weak_languages), recipe.validation.permille, files)
