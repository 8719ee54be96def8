"""Parts of an index that workers write, one for each shard; in their order they become one segment.

000007.part  for each chunk of documents: a line of JSON, then the vectors as little-endian float32, passages' first
000007.json  what there is in it; it is there once the part is whole
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np

from kdserve.datatypes import Embedder, Progress
from kdserve.disk import sync_path, write_error
from kdserve.errors import FolderError
from kdserve.json_files import read_json
from kdserve.search.documents.document import Document
from kdserve.search.documents.embedding import Embedded, embed_documents
from kdserve.search.documents.passages import Splitting
from kdserve.search.documents.shards import Opened, Prepare, Shard, ShardTask, SharedDocuments


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What a part holds: so many documents of a shard, and what the shard skipped."""

    shard: str
    num_documents: int
    skipped: dict[str, int]


def write_parts(
    shared: SharedDocuments, folder: Path, encoder: Embedder, splitting: Splitting, *, progress: Progress
) -> list[Path]:
    """Let workers write the parts of all shards into a folder, but those that are there, and name them in order.

    Raises:
        DataError: what one machine would say first of the documents.
        EncodeError: as `Workers.each`.
        FolderError: a worker does not find the folder, or cannot write to it.
    """
    shards = shared.shards()
    paths = [folder.absolute() / f"{number:06d}.part" for number in range(len(shards))]
    write = partial(_write_part, prepare=shared.prepare, splitting=splitting)
    tasks = [ShardTask(shard=shard, run=partial(write, path=path)) for shard, path in zip(shards, paths, strict=True)]
    num_done = 0

    def done(part: Part) -> None:
        nonlocal num_done
        num_done += 1
        shared.source.skipped.update(part.skipped)
        progress("shards", num_done, len(shards))

    progress("shards", 0, len(shards))
    shared.workers.each(tasks, encoder.fingerprint, done)
    return paths


def read_parts(paths: Sequence[Path], num_known: int) -> Iterator[Embedded]:
    """The embedded documents of parts, after the first `num_known` documents."""
    for path in paths:
        num_documents = _read_facts(path).num_documents
        if num_known >= num_documents:
            num_known -= num_documents
            continue
        for chunk in _read_part(path):
            if num_known < len(chunk.documents):
                yield _after(chunk, num_known)
            num_known = max(0, num_known - len(chunk.documents))


def _write_part(shard: Shard, opened: Opened, *, path: Path, prepare: Prepare, splitting: Splitting) -> Part:
    facts = path.with_suffix(".json")
    if facts.is_file() and (known := _read_facts(path)).shard == str(shard):
        return known
    if not path.parent.is_dir():
        raise FolderError(f"{socket.gethostname()} finds no {path.parent}; put the index where all workers can write")
    num_documents = 0
    try:
        for left in path.parent.glob(f"{path.stem}.*"):  # by workers that were lost with this shard
            if left.suffix not in (".part", ".json"):
                left.unlink(missing_ok=True)
        aside = path.with_suffix(f".{uuid4().hex}")
        with aside.open("wb") as file:
            for chunk in embed_documents(prepare(shard.read()), opened(), splitting):
                documents = [[d.text, d.id, d.language, dict(d.metadata)] for d in chunk.documents]
                vectors = np.concatenate([chunk.vectors, chunk.sentence_vectors])
                places = {"spans": chunk.spans, "sentences": chunk.sentences}
                head = json.dumps({"documents": documents, **places, "shape": vectors.shape})
                file.write(head.encode() + b"\n" + vectors.astype("<f4").tobytes())
                num_documents += len(documents)
            file.flush()
            os.fsync(file.fileno())
        facts.unlink(missing_ok=True)  # of another shard: they must not vouch for this part
        aside.rename(path)
        sync_path(path.parent)
        part = Part(shard=str(shard), num_documents=num_documents, skipped=dict(shard.source.skipped))
        aside.write_text(json.dumps(asdict(part)), encoding="utf-8")
        sync_path(aside)
        aside.rename(facts)
    except OSError as error:
        raise write_error(path, error) from error
    return part


def _read_facts(path: Path) -> Part:
    return Part(**read_json(path.with_suffix(".json")))


def _read_part(path: Path) -> Iterator[Embedded]:
    with path.open("rb") as file:
        while line := file.readline():
            head = json.loads(line)
            rows, dim = head["shape"]
            vectors = np.frombuffer(file.read(rows * dim * 4), "<f4").reshape(rows, dim)
            num_passages = len(head["sentences"])
            yield Embedded(
                documents=[
                    Document(text=text, id=id_, language=language, metadata=metadata)
                    for text, id_, language, metadata in head["documents"]
                ],
                spans=head["spans"],
                vectors=vectors[:num_passages],
                sentences=head["sentences"],
                sentence_vectors=vectors[num_passages:],
            )


def _after(chunk: Embedded, num_known: int) -> Embedded:
    """A chunk without its first documents."""
    first_row = sum(map(len, chunk.spans[:num_known]))
    first_sentence = sum(map(len, chunk.sentences[:first_row]))
    return Embedded(
        documents=chunk.documents[num_known:],
        spans=chunk.spans[num_known:],
        vectors=chunk.vectors[first_row:],
        sentences=chunk.sentences[first_row:],
        sentence_vectors=chunk.sentence_vectors[first_sentence:],
    )
