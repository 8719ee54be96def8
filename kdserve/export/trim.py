"""Keep the tokens that some languages need, and drop the rest of a model's vocabulary with its table rows.

V vocabulary, H width
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from kdserve.datatypes import Progress, no_progress
from kdserve.errors import DataError, FolderError
from kdserve.export.copies import describe_copy, replace_weights, require_apart, staged_copy
from kdserve.export.read.bert import POSITIONS_AFTER_PADDING
from kdserve.export.read.foreign import opening
from kdserve.export.read.static import read_table
from kdserve.export.read.student import StudentFolder, read_student
from kdserve.export.read.tensors import read_stored
from kdserve.export.read.tokenizer import require_rows
from kdserve.export.texts import GateTexts
from kdserve.export.vocabulary import close_over, cut_vocabulary, tokens_of
from kdserve.json_files import read_object
from kdserve.runtime.library import encode_texts, open_tokenizer

_TABLES = (
    "embeddings.word_embeddings.weight",
    "embeddings.tok_embeddings.weight",
    "shared.weight",
    "embed_tokens.weight",
    "embedding.weight",
)
_OTHER_VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "added_tokens.json",
)
_LANGUAGE_MODEL_HEADS = ("lm_head.", "cls.", "vocab_", "decoder.", "head.")
_HELD_OUT_EVERY = 10
_CHUNK_TEXTS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageCoverage:
    """One language's held-out texts: how many keep all their tokens, and tokens a word before and after."""

    language: str
    num_texts: int
    share_unchanged: float
    tokens_per_word_before: float
    tokens_per_word_after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrimReport:
    """Rows and tokens that trimming took away."""

    tokens_before: int
    tokens_after: int
    bytes_before: int
    bytes_after: int
    coverage: tuple[LanguageCoverage, ...]


def trim_vocabulary(
    model: Path,
    out: Path,
    *,
    texts: GateTexts,
    languages: Sequence[str] = (),
    min_count: int = 1,
    progress: Progress = no_progress,
) -> TrimReport:
    """Write `model` with the tokens that occur `min_count` times in `texts`; every tenth text is held out to report on.

    Special tokens, bytes and the single characters seen in `texts` always stay. `languages` picks among the texts'
    languages; all by default. In float32, text whose tokens all survive keeps its vector bit for bit.

    Raises:
        FolderError: `model` is no such folder, its tokenizer or table cannot be trimmed, or `out` lies inside it.
        DataError: there is no text in one of the languages.
    """
    require_apart(model, out)
    chosen = _choose(texts, languages)
    student = read_student(model, languages=tuple(chosen))
    spec = student.tokenizer.spec
    counts: Counter[int] = Counter()
    characters: set[str] = set()
    with opening(student.body, "tokenizers"):
        before = open_tokenizer(json.dumps(spec))
        for done, (language, sentences) in enumerate(chosen.items()):
            progress(f"count tokens of {language}", done, len(chosen))
            seen = [text for i, text in enumerate(sentences) if i % _HELD_OUT_EVERY or len(sentences) < _HELD_OUT_EVERY]
            _count(before, seen, counts, characters)
    progress("count tokens", len(chosen), len(chosen))
    ids = tokens_of(spec)
    kept = close_over(spec, [token for token, number in ids.items() if counts[number] >= min_count], characters)
    tokenizer = cut_vocabulary(spec, kept)
    with opening(student.body, "tokenizers"):
        after = open_tokenizer(json.dumps(tokenizer))
    with staged_copy(student.folder, out, without=("*.bin",)) as folder:
        rows = np.array([ids[token] for token in kept])
        _write(student, folder, tokenizer, rows, name=out.resolve().name, languages=tuple(chosen))
        return TrimReport(
            tokens_before=len(ids),
            tokens_after=len(kept),
            bytes_before=_size(student.folder),
            bytes_after=_size(folder),
            coverage=tuple(_cover(language, held, before, after) for language, held in _held_out(chosen).items()),
        )


def _choose(texts: GateTexts, languages: Sequence[str]) -> dict[str, Sequence[str]]:
    missing = [code for code in languages if code not in texts.by_language]
    if missing:
        raise DataError(f"there is no text in {', '.join(missing)}; give `language<TAB>text` lines for every language")
    return {code: texts.by_language[code] for code in languages or texts.by_language}


def _held_out(chosen: dict[str, Sequence[str]]) -> dict[str, list[str]]:
    return {language: list(sentences[::_HELD_OUT_EVERY]) for language, sentences in chosen.items()}


def _count(tokenizer: Tokenizer, texts: Sequence[str], counts: Counter[int], characters: set[str]) -> None:
    for start in range(0, len(texts), _CHUNK_TEXTS):
        chunk = list(texts[start : start + _CHUNK_TEXTS])
        for encoding in encode_texts(tokenizer, chunk, parallel=True):
            counts.update(encoding.ids)
        for text in chunk:
            characters.update(tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text)


def _cover(language: str, texts: Sequence[str], before: Tokenizer, after: Tokenizer) -> LanguageCoverage:
    old, new = (encode_texts(tokenizer, texts, parallel=True) for tokenizer in (before, after))
    unchanged = sum(a.tokens == b.tokens for a, b in zip(old, new, strict=True))
    words = max(1, sum(len(text.split()) for text in texts))
    return LanguageCoverage(
        language=language,
        num_texts=len(texts),
        share_unchanged=unchanged / len(texts),
        tokens_per_word_before=sum(len(encoding.ids) for encoding in old) / words,
        tokens_per_word_after=sum(len(encoding.ids) for encoding in new) / words,
    )


def _write(
    student: StudentFolder,
    folder: Path,
    tokenizer: dict[str, Any],
    rows: npt.NDArray[np.int64],
    *,
    name: str,
    languages: tuple[str, ...],
) -> None:
    """Write into the copy a smaller table, a smaller tokenizer, and the numbers that follow from them."""
    body = folder / student.body.relative_to(student.folder)
    tensors, names = _cut_tables(student, rows)
    for stale in _OTHER_VOCABULARIES:
        (body / stale).unlink(missing_ok=True)
    (body / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    replace_weights(body, tensors)
    new = {int(old): number for number, old in enumerate(rows)}
    _renumber_config(body / "config.json", new)
    _renumber_tokenizer_config(body / "tokenizer_config.json", new)
    dim = student.dim or int(tensors[names[0]].shape[1])
    describe_copy(student, folder, name=name, parent="untrimmed", languages=languages, dim=dim)


def _cut_tables(student: StudentFolder, rows: npt.NDArray[np.int64]) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """Return the folder's tensors with smaller tables, without language models' heads, and the tables' names."""
    tensors = read_stored(student.body)
    if "embeddings" in tensors:  # model2vec: rows may be shared
        tensors = {"embedding.weight": read_table(student.body)}
    tensors = {name: value for name, value in tensors.items() if not name.startswith(_LANGUAGE_MODEL_HEADS)}
    names = [name for name in tensors if name.endswith(_TABLES)]
    if not names:
        raise FolderError(f"{student.folder} has no token table under a known name; it cannot be trimmed")
    for name in names:
        require_rows(student.tokenizer.spec, len(tensors[name]), student.body)
        tensors[name] = np.ascontiguousarray(tensors[name][rows])
    return tensors, names


def _renumber_config(path: Path, new: Mapping[int, int]) -> None:
    """Set the vocabulary's new size and the new numbers of special tokens, where the body has a configuration."""
    if not path.is_file():
        return
    config = read_object(path)
    pad = config.get("pad_token_id", 1)
    if config.get("model_type") in POSITIONS_AFTER_PADDING and new.get(pad) != pad:
        raise FolderError(f"{path} counts positions from padding token {pad}, which would move; it cannot be trimmed")
    for name, value in config.items():
        if name.endswith("_token_id") and isinstance(value, int):
            config[name] = new.get(value)
    config["vocab_size"] = len(new)
    _write_json(path, config)


def _renumber_tokenizer_config(path: Path, new: Mapping[int, int]) -> None:
    if not path.is_file():
        return
    config = read_object(path)
    if "added_tokens_decoder" in config:
        decoder = config["added_tokens_decoder"].items()
        config["added_tokens_decoder"] = {str(new[int(old)]): token for old, token in decoder if int(old) in new}
    _write_json(path, config)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
