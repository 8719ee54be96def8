"""Workers that insert shards of documents into one collection by themselves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

from kdserve.datatypes import Embedder, Progress
from kdserve.errors import DataError
from kdserve.search.documents.document import MAX_INT, Id
from kdserve.search.documents.embedding import embed_documents
from kdserve.search.documents.passages import Splitting
from kdserve.search.documents.shards import Opened, Prepare, Shard, ShardTask, SharedDocuments
from kdserve.search.milvus.client import Client
from kdserve.search.milvus.collection import Collection, State

PLACES = 1 << 32
"""Places for the passages of one shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Counted:
    """What a shard makes of the counter for documents without ids: it grows by `without`, and is at least `least`."""

    without: int
    least: int
    skipped: dict[str, int]

    def after(self, next_id: int) -> int:
        """The counter after the shard."""
        return min(max(next_id + self.without, self.least), MAX_INT)


def insert_shared(shared: SharedDocuments, kept: Collection, encoder: Embedder, progress: Progress) -> None:
    """Let workers read all shards once to check and count them, and again to embed and insert them.

    Ids and the order of documents are those that one machine gives them, and a shard that is done twice is there once.

    Raises:
        DataError: no documents, an id twice, or as `Source.read`.
        EncodeError: as `Workers.each`.
        FolderError: as `Workers.each`, or Milvus cannot be reached.
    """
    shards, workers = shared.shards(), shared.workers

    def shown(what: str) -> Callable[[object], None]:
        numbers = count(1)
        progress(what, 0, len(shards))
        return lambda _: progress(what, next(numbers), len(shards))

    counting = [ShardTask(shard=shard, run=_count, told=False) for shard in shards]
    counted = workers.each(counting, encoder.fingerprint, shown("shards read"))
    tasks, next_id = [], kept.state.next_id
    for number, (shard, found) in enumerate(zip(shards, counted, strict=True)):
        state = replace(kept.state, next_id=next_id, next_place=number * PLACES)
        insert = partial(
            _insert, address=kept.client.address, collection=kept.name, state=state, prepare=shared.prepare
        )
        tasks.append(ShardTask(shard=shard, run=insert))
        next_id = found.after(next_id)
        shared.source.skipped.update(found.skipped)
    num_documents = sum(workers.each(tasks, encoder.fingerprint, shown("shards")))
    if not num_documents:
        raise DataError(f"there are no texts to index in {kept.name}; give at least one that is not blank")
    if len(kept) != num_documents:
        raise DataError(f"of {num_documents} documents only {len(kept)} have ids of their own; make the ids unique")
    kept.save(replace(kept.state, next_id=next_id, next_place=len(shards) * PLACES))


def _count(shard: Shard, _: Opened) -> _Counted:
    """Read a shard, so that what is wrong with it is told before anything is inserted."""
    without, least = 0, 0
    for document in shard.read():
        if document.id is None:
            without, least = without + 1, least + 1
        elif isinstance(document.id, int):
            least = max(least, document.id + 1)
    return _Counted(without=without, least=least, skipped=dict(shard.source.skipped))


def _insert(shard: Shard, opened: Opened, *, address: str, collection: str, state: State, prepare: Prepare) -> int:
    """Embed and insert a shard, over what a worker that was lost left of it; returns the number of its documents."""
    own = range(state.next_place, state.next_place + PLACES)
    seen: set[Id] = set()
    with closing(Client(address)) as client:
        kept = Collection(client, collection, state)
        for chunk in embed_documents(prepare(shard.read()), opened(), Splitting(window=state.window)):
            ids = kept.put(chunk, replacing=own)
            if twice := seen.intersection(ids):
                raise DataError(f"id {twice.pop()!r} occurs twice; ids must be unique, fix the texts")
            seen.update(ids)
    return len(seen)
