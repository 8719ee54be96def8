"""Where an index's documents, queries and ids come from, and who names languages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from unicodedata import normalize

from kdserve.cli.console import say
from kdserve.errors import DataError

if TYPE_CHECKING:
    from kdserve.loading import Device
    from kdserve.runtime import Classifier
    from kdserve.search import Document, Format, Id, NewMetadata, Source
    from kdserve.search.cluster import RayWorkers
    from kdserve.search.documents.shards import SharedDocuments
    from kdserve.search.protocol import RetrieverProtocol

REPEATS_LOOKED_AT = 32
Some = TypeVar("Some", bound="Document | NewMetadata")


def open_source(
    texts: Path, format: Format | None, text_column: str, id_column: str, numbers: str, fields: str | None = None
) -> Source:
    """Describe a file, a folder or stdin, as the options say; `fields` None keeps all."""
    from kdserve.search import Columns, Source, format_of

    kept = None if fields is None else _names(fields)
    columns = Columns(text=text_column, id=id_column, numbers=_names(numbers), fields=kept)
    source = Source(path=texts, format=format or format_of(texts), columns=columns)
    if kept is not None and (dropped := columns.numbers - kept):
        raise DataError(f"--numbers names {min(dropped)!r}, which --fields does not keep; name it in both or in none")
    if columns != Columns() and (found := source.files()[0]) in ("txt", "document", "folder"):
        if found == "txt" or replace(columns, fields=None) != Columns():
            options = "--text-column, --id-column, --numbers and --fields"
            raise DataError(f"{texts} is plain text without columns; leave out {options}")
        refuse_unknown_fields(source)
    return source


def _names(given: str) -> frozenset[str]:
    return frozenset(filter(None, (normalize("NFC", name.strip()) for name in given.split(","))))


def refuse_unknown_fields(source: Source) -> None:
    """Raise DataError where whole files shall keep a field that none of them can have."""
    from kdserve.search.documents.readers import TITLE

    if unknown := (source.columns.fields or frozenset()) - {TITLE}:
        raise DataError(f"the texts of {source.path} have no field {min(unknown)!r} to keep, only {TITLE!r}")


def with_languages(documents: Iterator[Some], languages_by: str, threads: int | None) -> Iterator[Some]:
    """The documents; the classifier `languages_by`, if any, names the language of those without one."""
    from kdserve.search import name_languages

    return name_languages(documents, _classifier(languages_by, threads)) if languages_by else documents


@cache
def _classifier(name: str, threads: int | None) -> Classifier:
    """Open a classifier once in a process, as a worker reads many shards."""
    from kdserve.runtime import Classifier

    return Classifier.load(name, num_threads=threads)


def documents_of(
    source: Source, languages_by: str, workers: RayWorkers | None, *, threads: int | None
) -> tuple[Iterator[Document] | SharedDocuments, int]:
    """The documents of a source, for workers to read if there are any, and about how many; 0 where that is unknown."""
    from kdserve.search.documents.shards import SharedDocuments

    if workers is None:
        return with_languages(source.read(), languages_by, threads), source.count()
    prepare = partial(with_languages, languages_by=languages_by, threads=threads or 1)
    return SharedDocuments(source=source, workers=workers, prepare=prepare), 0


def ray_workers_of(bundle: str, number: int, *, milvus: str, device: Device, threads: int | None) -> RayWorkers:
    """So many Ray workers with a model, on a CPU each, or `threads`.

    Raises:
        DataError: they shall write to a file of Milvus Lite.
    """
    from kdserve.loading import open_model
    from kdserve.search.cluster import RayWorkers

    if milvus and "://" not in milvus:
        raise DataError(
            f"{milvus} is a file, which one process writes; name a server of Milvus, or leave out --ray-workers"
        )
    load = partial(open_model, bundle, device=device, num_threads=threads or 1)
    workers = RayWorkers(load=load, number=number, num_cpus=threads or 1, num_gpus=int(device == "cuda"))
    say(f"embedding on {number} Ray workers")
    return workers


def refuse_repeats(index: RetrieverProtocol, name: str, source: Source) -> Iterator[Document]:
    """The documents of a source whose first ones, counted as they have no ids, are not all in the index already.

    Raises:
        DataError: they are: the same file was added before.
    """
    documents = source.read()
    first = list(islice(documents, REPEATS_LOOKED_AT))
    texts = {document.text for document in first}
    counted = bool(first) and all(document.id is None for document in first)
    if counted and index.texts_among(sorted(texts)) == texts:
        raise DataError(
            f"the texts of {source.path} are in {name} already and would be there twice, as they have no ids; "
            f"add others, or say --allow-repeats"
        )
    yield from chain(first, documents)


def report_skipped(source: Source) -> None:
    """Say how many files of a folder were no documents, and of which kinds."""
    if skipped := skipped_in(source):
        say(skipped)


def skipped_in(source: Source) -> str:
    """What `report_skipped` says; "" where all were documents."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in source.skipped.most_common())
    return f"{source.path}: skipped {kinds}" if kinds else ""


def known_ids(folder: Path, given: list[str]) -> list[Id]:
    """Ids as the index knows them: a str, or the int of which it is the canonical form, if only that is there."""
    from kdserve.search import ids_as_typed, open_snapshot

    meanings = ids_as_typed(given)
    asked = [id_ for some in meanings for id_ in some]
    known = {document.id for _, document in open_snapshot(folder, exact=True).find(asked)}
    return [next((id_ for id_ in some if id_ in known), some[0]) for some in meanings]


def lines_of_stdin() -> Iterator[str]:
    """The lines of standard input that show something, as they come."""
    return chain.from_iterable(batches_of_stdin(1))


def batches_of_stdin(most: int) -> Iterator[list[str]]:
    """The lines of standard input that show something, those that have come and `most` at once."""
    from kdserve.lines import STDIN, read_batches
    from kdserve.runtime.normalizer import is_blank

    batches = ([line for line in lines if not is_blank(line)] for lines in read_batches(STDIN, most))
    return filter(None, batches)
