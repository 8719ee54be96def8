"""`kdserve index …` and `kdserve search`: documents become an index, a question becomes hits."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdserve.cli import mine, search, sync
from kdserve.cli.console import print_json, print_line, progress_bars, say
from kdserve.cli.documents import (
    documents_of,
    known_ids,
    lines_of_stdin,
    open_source,
    ray_workers_of,
    refuse_repeats,
    report_skipped,
    with_languages,
)
from kdserve.cli.milvus import Milvus, build_collection, open_collection, refuse_in_milvus
from kdserve.cli.options import DEFAULT_BUNDLE, Device, Fields, FormatOption, Threads
from kdserve.cli.search import OtherBundle, open_retriever
from kdserve.search.backends.kinds import KINDS_HELP, KindOrAuto

if TYPE_CHECKING:
    from kdserve.datatypes import Embedder
    from kdserve.search.protocol import RetrieverProtocol

IndexFolder = Annotated[Path, typer.Argument(help="An index folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Texts = Annotated[
    Path,
    typer.Argument(
        help="A .txt, .tsv, .csv, .jsonl or .parquet file (.gz too), a document (.md, .rst, .html, .pdf, .docx, "
        ".epub), a folder, or - for stdin."
    ),
]
TextColumn = Annotated[str, typer.Option(help="Column or field that holds the text.")]
IdColumn = Annotated[str, typer.Option(help="Column or field that holds the id; without one, documents are numbered.")]
Numbers = Annotated[str, typer.Option(help="Columns whose cells are numbers, separated by commas: year,price.")]
Kind = Annotated[KindOrAuto, typer.Option(help=f"auto chooses by size, memory and recall; {KINDS_HELP}.")]
Recall = Annotated[
    float, typer.Option(min=0, max=1, help="Recall that an approximate kind must reach, like 0.99; it is measured.")
]
Memory = Annotated[str, typer.Option(help="Memory that the searched vectors may take, like 200MB or 2GB.")]
LanguagesBy = Annotated[
    str, typer.Option(help="A classifier that names the language of documents without one, like kdserve-langid.")
]

MOST_MEMORY_BYTES = 2**63 - 1

index = typer.Typer(help="Build an index over documents, change it, look into it, check it.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this room."""
    app.add_typer(index, name="index")
    search.register(app)
    mine.register(app)


@index.command("build")
def build(
    texts: Texts,
    out: Annotated[Path, typer.Option(help="The index folder to make, or with --milvus the collection.")],
    bundle: Annotated[
        str,
        typer.Option(
            help="Bundle folder, a published student's name, or a teacher; kdserve-mini finds more, and takes longer.",
            show_default=DEFAULT_BUNDLE,
        ),
    ] = "",
    queries_by: Annotated[
        str,
        typer.Option(help="A student or the teacher of the bundle, which may search too: measure what it finds."),
    ] = "",
    kind: Kind = "auto",
    recall: Recall = 0.0,
    memory: Memory = "",
    precision: Annotated[Literal["float32", "int8"], typer.Option(help="How vectors are stored.")] = "float32",
    passage_tokens: Annotated[
        int, typer.Option(help="Tokens of a passage, into which longer documents are split; 0: 256, or all it reads.")
    ] = 0,
    ray_workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of Ray workers, which read, embed and write by themselves, with a CPU each, or as many as "
            "--threads says; RAY_ADDRESS names a cluster, else they run here.",
        ),
    ] = 0,
    lexical: Annotated[bool, typer.Option("--lexical", help="Also keep the words, for search --lexical.")] = False,
    no_sentences: Annotated[
        bool,
        typer.Option("--no-sentences", help="Keep no vectors of sentences: worse hits, for half the time and space."),
    ] = False,
    format: FormatOption = None,
    text_column: TextColumn = "text",
    id_column: IdColumn = "id",
    numbers: Numbers = "",
    fields: Fields = None,
    languages_by: LanguagesBy = "",
    milvus: Milvus = "",
    threads: Threads = None,
    device: Device = "cpu",
) -> None:
    """Embed documents and write them to a new index. Killed half-way, the same command goes on where it was."""
    from kdserve.loading import open_model
    from kdserve.search import BuildOptions, Retriever, resume_key

    source = replace(open_source(texts, format, text_column, id_column, numbers, fields), follow=not milvus)
    if milvus:
        refuse_in_milvus(
            kind=kind != "auto",
            recall=bool(recall),
            memory=bool(memory),
            precision=precision != "float32",
            lexical=lexical,
            queries_by=bool(queries_by),
        )
    by_default, bundle = not bundle, bundle or DEFAULT_BUNDLE
    name, lasting = _lasting_name(bundle), languages_by and _lasting_name(languages_by)
    workers = ray_workers_of(name, ray_workers, milvus=milvus, device=device, threads=threads) if ray_workers else None
    # with workers it embeds nothing here, so a machine without a GPU may command those that have one
    encoder = open_model(bundle, device="cpu" if workers else device, num_threads=threads)
    documents, total = documents_of(source, lasting, workers, threads=threads)
    if by_default:
        say(f"{bundle} embeds; --bundle kdserve-mini finds more and takes longer: kdserve models")
    if milvus:
        build_collection(milvus, str(out), documents, encoder, name=name, passage_tokens=passage_tokens, total=total)
        report_skipped(source)
        _report_cut(encoder)
        return
    query_encoder = open_model(queries_by, device=device, num_threads=threads) if queries_by else None
    options = BuildOptions(
        kind=kind,
        recall=recall,
        memory_bytes=_num_bytes(memory),
        precision=precision,
        passage_tokens=passage_tokens,
        lexical=lexical,
        sentences=not no_sentences,
        encoder_name=name,
        total=total,
        resume_key=resume_key(
            source, encoder.fingerprint, precision, f"{passage_tokens} {lexical} {no_sentences} {languages_by}"
        ),
    )
    with progress_bars() as progress:
        Retriever.build(out, documents, encoder, query_encoder=query_encoder, options=options, progress=progress)
    report_skipped(source)
    _report(out)
    _report_cut(encoder)
    say(f'ask it: kdserve search {quote(str(out))} "your question"')


def _change_command(name: str, explanation: str, *, update: bool) -> None:
    """Make the command `add` or `update`, which take the same."""

    def change(
        folder: IndexFolder,
        texts: Texts,
        bundle: OtherBundle = "",
        format: FormatOption = None,
        text_column: TextColumn = "text",
        id_column: IdColumn = "id",
        numbers: Numbers = "",
        fields: Fields = None,
        languages_by: LanguagesBy = "",
        milvus: Milvus = "",
        threads: Threads = None,
        device: Device = "cpu",
        allow_repeats: Annotated[
            bool, typer.Option("--allow-repeats", help="Add texts without ids though the index has them.")
        ] = False,
    ) -> None:
        source = open_source(texts, format, text_column, id_column, numbers, fields)
        collection = open_collection(milvus, str(folder), bundle, device=device, threads=threads) if milvus else None
        retriever: RetrieverProtocol | None = collection
        if retriever is None:
            retriever = open_retriever(folder, bundle, device=device, threads=threads)
        with progress_bars() as progress:
            total = source.count()
            if update:
                retriever.update(
                    with_languages(source.read_updates(), languages_by, threads), total=total, progress=progress
                )
            else:
                documents = source.read() if allow_repeats else refuse_repeats(retriever, str(folder), source)
                retriever.add(with_languages(documents, languages_by, threads), total=total, progress=progress)
        report_skipped(source)
        where = f"{milvus}: {len(retriever)} documents in the collection {folder}"
        say(where if milvus else f"{folder}: {len(retriever)} documents")
        _report_cut(retriever.encoder)
        if collection is not None:
            collection.close()

    index.command(name, help=explanation)(change)


_change_command(
    "add", "Add documents; an id that is in the index already is an error, and nothing is added then.", update=False
)
_change_command("update", "Put documents in the place of those with the same ids; the others are added.", update=True)


@index.command("delete")
def delete(
    folder: IndexFolder,
    ids: Annotated[list[str], typer.Argument(help="Ids of documents; - reads them from stdin, one a line.")],
) -> None:
    """Delete documents by id; if one is not there, nothing is deleted."""
    from kdserve.search import delete_documents

    snapshot = delete_documents(folder, known_ids(folder, list(lines_of_stdin()) if ids == ["-"] else ids))
    say(f"{folder}: {snapshot.num_documents} documents")


@index.command("compact")
def compact(folder: IndexFolder, kind: Kind = "auto", recall: Recall = 0.0, memory: Memory = "") -> None:
    """Rewrite an index as one piece, without what was deleted; its kind is chosen anew."""
    from kdserve.search import Requirements, compact_index

    requirements = Requirements(kind=kind, recall=recall, memory_bytes=_num_bytes(memory))
    with progress_bars() as progress:
        compact_index(folder, requirements=None if requirements == Requirements() else requirements, progress=progress)
    _report(folder)


@index.command("info")
def info(folder: IndexFolder, json: AsJson = False) -> None:
    """Say what an index holds."""
    from kdserve.search import describe

    facts = asdict(describe(folder))
    if json:
        print_json(facts)
        return
    facts["fields"] = tuple(f"{name} ({kinds})" for name, kinds in facts.pop("field_types").items())
    facts["queries_of"] = tuple(f"{kin['encoder'][:12]} (recall {kin['recall']:.3f})" for kin in facts.pop("kin"))
    tuning = facts.pop("tuning") or {}
    for name, value in {**facts, **tuning}.items():
        shown = ", ".join(value) or "-" if isinstance(value, tuple) else value
        print_line(f"{name.replace('_', ' '):16} {shown}")


@index.command("verify")
def verify(folder: IndexFolder) -> None:
    """Check every byte of an index, and that its files fit together."""
    from kdserve.search import verify_index

    print_line(f"{folder}: {verify_index(folder)} files, all whole")


def _report(folder: Path) -> None:
    """Say how many documents there are, and which kind of index was chosen, why, and what it was measured to give."""
    from kdserve.search import describe

    info = describe(folder)
    say(f"{folder}: {info.documents} documents, {info.kind} ({info.reason})")
    if info.tuning:
        tuning = info.tuning
        say(
            f"measured on {tuning.num_queries} queries made from its vectors: recall@10 {tuning.recall:.3f}, "
            f"{tuning.queries_per_s:.0f} queries/s in a batch, {tuning.memory_bytes / 1e6:.0f} MB"
        )
    for kin in info.kin:
        say(f"queries of {kin.encoder[:12]} find {kin.recall:.3f} of what the builder's queries find")


sync.register(index)


def _num_bytes(memory: str) -> int:
    """Read 200MB, 1.5GB, 300kB or a plain number of bytes."""
    if not memory:
        return 0
    match = re.fullmatch(r"([0-9.]+)\s*(|k|M|G|T)i?B?", memory.strip(), re.IGNORECASE)
    if not match or match[1].count(".") > 1 or match[1] == ".":
        raise typer.BadParameter(f"{memory!r} is no amount of memory; write 200MB or 2GB")
    size = float(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " ")
    if size > MOST_MEMORY_BYTES:
        raise typer.BadParameter(f"{memory[:40]!r} is more than any machine has; write 200MB or 2GB")
    return int(size)


def _report_cut(encoder: Embedder) -> None:
    from kdserve.runtime import Encoder

    if isinstance(encoder, Encoder) and encoder.num_cut:
        say(f"{encoder.num_cut} texts were longer than the model's {encoder.max_tokens} tokens and were cut there")


def _lasting_name(bundle: str) -> str:
    """A name that still finds the bundle from another working folder."""
    from kdserve.runtime import published_names

    return str(Path(bundle).resolve()) if bundle not in published_names() and Path(bundle).exists() else bundle
